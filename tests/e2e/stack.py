"""Starts the whole stack as an operator does, with `neuronetz-gateway up`, over a simulated Ollama."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ops.embedded.state import open_state
from ops.host import env_file
from tests.forked_program import ForkedProgram
from tests.ops.cli.conftest import Operator
from tests.polling import eventually
from tests.ports import free_port
from tests.stack_template import copy_cluster

START_TIMEOUT_S = 180.0
WAIT_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 60.0
# A hash with the default cost takes 0.2 s of CPU time, in the command that creates a key and in each authz worker. The
# tests of the embedded stack in tests/ops use the default.
CHEAP_HASHING = {"ARGON2_TIME_COST": "1", "ARGON2_MEMORY_COST_KIB": "1024", "ARGON2_PARALLELISM": "1"}
# The slots of a simulated Ollama in tests that are not about the queue: no request waits.
SLOTS = 1000
# Limits that no request reaches, and stores that a busy machine may delay, for tests of the queue.
PATIENT = {
    "DEFAULT_RPM": "10000",
    "DEFAULT_TPM": "10000000",
    "DEFAULT_CONCURRENT": "50",
    "REDIS_TIMEOUT_S": "3",
    "DATABASE_TIMEOUT_S": "10",
}
Program = ForkedProgram | subprocess.Popen[bytes]
# Operator commands run in this process, because starting Python takes longer than most of them. They run one at a time,
# because each replaces the standard streams, and in a thread, because each runs its own event loop.
_COMMANDS = ThreadPoolExecutor(1)


class Simulator:
    """A simulated Ollama in a separate process, with a record of its requests. It can be stopped and started again."""

    def __init__(self, *arguments: str, trust: ssl.SSLContext | bool = True) -> None:
        self._arguments = arguments
        self._trust = trust
        self._listen = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Starts it without records. A restarted one listens on its former port."""
        with tempfile.NamedTemporaryFile("r") as output:
            log = Path(output.name)
            arguments = ("--listen", self._listen, *self._arguments)
            self.process = ForkedProgram("ops.simulator", *arguments, output=log, env=os.environ)

            def is_ready() -> bool:
                assert self.process.poll() is None, log.read_text()
                return log.read_text().endswith("\n")

            eventually(is_ready, START_TIMEOUT_S, failure=log.read_text)
            self.url = log.read_text().strip()
        self._listen = self.url.partition("://")[2]
        self._client = httpx.Client(verify=self._trust, base_url=self.url, timeout=2 * WAIT_TIMEOUT_S)

    def stop(self) -> None:
        """Stops it. Its port then refuses connections."""
        self._client.close()
        self.process.terminate()
        self.process.wait(timeout=20)

    def requests(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """Records of the requests it received, without health checks and discovery.

        With `request_id`, only those of that gateway request.
        """
        wanted = {"method": "POST", **({"request_id": request_id} if request_id is not None else {})}
        records: list[dict[str, Any]] = self._client.get("/_sim/requests", params=wanted).json()
        return [record for record in records if record["path"] != "/api/show"]

    def wait_until_idle(self) -> None:
        """Waits until it processes no request."""
        self._client.get("/_sim/requests", params={"idle_s": WAIT_TIMEOUT_S, "request_id": "none"}).raise_for_status()

    def clear_records(self) -> None:
        """Deletes the records."""
        self._client.delete("/_sim/requests").raise_for_status()

    def install(self, *models: dict[str, Any]) -> None:
        """Replaces the installed models. Each one has a `name`, and optionally capabilities and parameters."""
        self._client.put("/_sim/models", json=models).raise_for_status()

    def models(self) -> list[dict[str, Any]]:
        """The installed models, in the form that `install` takes."""
        rows: list[dict[str, Any]] = self._client.get("/_sim/models").json()
        return rows

    def behave(self, **behaviour: Any) -> None:
        """Sets how it answers from now on. Without arguments, restores the default behaviour."""
        self._client.put("/_sim/behaviour", json=behaviour).raise_for_status()


@contextmanager
def simulator(*arguments: str, trust: ssl.SSLContext | bool = True) -> Iterator[Simulator]:
    """Starts a simulated Ollama on a free port. `trust` verifies its certificate if it uses TLS."""
    running = Simulator(*arguments, trust=trust)
    try:
        yield running
    finally:
        running.stop()


@dataclass
class Stack:
    """A running stack. `ready` is the content of the ready file, `settings` are those of its environment."""

    process: Program
    state_dir: Path
    ready_file: Path
    ready: dict[str, Any]
    settings: Mapping[str, str]

    @property
    def url(self) -> str:
        """The URL of Envoy's listener."""
        url: str = self.ready["url"]
        return url

    def names(self) -> list[str]:
        """The names of the processes that run."""
        return list(json.loads(self.ready_file.read_text())["pids"])

    def pids(self, prefix: str) -> list[int]:
        """The current process ids of the processes whose name starts with `prefix`."""
        now = json.loads(self.ready_file.read_text())
        return [pid for name, pid in now["pids"].items() if name.startswith(prefix)]

    def is_running(self) -> bool:
        """Whether every process runs. One that was killed may end again while it starts, and is started again."""
        return all(Path(f"/proc/{pid}").exists() for pid in self.pids(""))

    def cli(self, *arguments: str) -> Any:
        """Runs an operator command with --json and returns the parsed output.

        Call it in the main thread: pytest replaces the standard streams as well, between the phases of a test.
        """
        operator = Operator(Path(self.ready["env_file"]), self.settings)
        result = _COMMANDS.submit(operator.run, *arguments, "--json").result(COMMAND_TIMEOUT_S)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def new_key(self, tenant: str, *options: str, models: bool = True) -> str:
        """A key of a new tenant. With `models`, the tenant may use all models."""
        self.cli("create-tenant", "--name", tenant, *(["--allow-all-models"] if models else []))
        key: str = self.cli("create-key", "--tenant", tenant, "--name", "k", *options)["key"]
        return key

    def hosts(self, cluster: str) -> dict[str, dict[str, Any]]:
        """The state of each worker in a cluster of Envoy, by the name of its socket."""
        admin = env_file.read(self.state_dir / ".env")["ENVOY_ADMIN_LISTEN"].removeprefix("unix:")
        with httpx.Client(transport=httpx.HTTPTransport(uds=admin)) as client:
            statuses = client.get("http://envoy/clusters?format=json").json()["cluster_statuses"]
        (hosts,) = [each["host_statuses"] for each in statuses if each["name"] == cluster]
        return {Path(host["address"]["pipe"]["path"]).stem: host for host in hosts}

    def healthy_hosts(self, cluster: str) -> set[str]:
        """The names of the healthy workers in a cluster of Envoy."""
        healthy = {"eds_health_status": "HEALTHY"}
        return {name for name, host in self.hosts(cluster).items() if host["health_status"] == healthy}

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines with this event in the logs of all services. A line that a killed process cut short is left out."""
        wanted = f'"event": "{event}"'
        return [
            json.loads(line)
            for log in (self.state_dir / "logs").glob("[amc]*.log*")
            for line in log.read_text(errors="replace").splitlines()
            if wanted in line and line.endswith("}")
        ]

    @contextmanager
    def frozen(self, prefix: str) -> Iterator[None]:
        """Suspends the processes whose name starts with `prefix`, as if they hung, until the context ends."""
        pids = [each for pid in self.pids(prefix) for each in (pid, *_children(pid))]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def up(state_dir: Path, *arguments: str, **settings: str) -> AbstractContextManager[Stack]:
    """Runs `neuronetz-gateway up` until the context ends, with `settings` in its environment and CHEAP_HASHING.

    Raises AssertionError if it does not start or does not stop cleanly.
    """
    return _running(ForkedProgram, state_dir, arguments, settings)


def executed_up(state_dir: Path, *arguments: str, **settings: str) -> AbstractContextManager[Stack]:
    """Like `up`, but executes the program as an operator does, and the first start creates the cluster."""
    return _running(_execute, state_dir, arguments, settings)


def _execute(module: str, *arguments: str, output: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with output.open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=log, stderr=log, env=env)


@contextmanager
def _running(
    start: Callable[..., Program],
    state_dir: Path,
    arguments: Sequence[str],
    settings: Mapping[str, str],
) -> Iterator[Stack]:
    ready_file, log = state_dir.with_suffix(".ready"), state_dir.with_suffix(".log")
    ready_file.unlink(missing_ok=True)
    with open_state(state_dir) as state:
        state.env_file.touch(mode=0o600)
        if start is ForkedProgram:
            copy_cluster(state)
        if not env_file.read(state.env_file).get("DATABASE_URL"):
            # The stack would choose any free ports, and so might another one that starts at the same time.
            urls = {
                "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}",
                "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
            }
            env_file.update(state.env_file, urls)
    set_env(state_dir, **CHEAP_HASHING)
    options = ("--state-dir", str(state_dir), "--ready-file", str(ready_file), *arguments)
    process = start("ops.cli", "up", *options, output=log, env={**os.environ, **settings})

    def ready() -> dict[str, Any] | None:
        assert process.poll() is None, log.read_text()
        return json.loads(ready_file.read_text()) if ready_file.exists() else None

    try:
        yield Stack(process, state_dir, ready_file, eventually(ready, START_TIMEOUT_S), settings)
    finally:
        process.terminate()
        code = process.wait(timeout=60)
    assert code in (0, -signal.SIGKILL), log.read_text()


def listening(pids: list[int]) -> set[str]:
    """The TCP addresses on which these processes listen, as HOST:PORT."""
    return _local_addresses(pids, "0A")


def connected(pids: list[int]) -> set[str]:
    """The local TCP addresses of the established connections of these processes, as HOST:PORT."""
    return _local_addresses(pids, "01")


def database_roles(stack: Stack) -> dict[str, str]:
    """The role of each connection to PostgreSQL by the client's address, from the titles of PostgreSQL's processes."""
    (server,) = stack.pids("postgres")
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in _children(server)]
    found = [re.match(r"postgres: (?P<role>\w+) \w+ (?P<host>[\d.]+)\((?P<port>\d+)\)", title) for title in titles]
    return {f"{each['host']}:{each['port']}": each["role"] for each in found if each}


def _local_addresses(pids: list[int], wanted_state: str) -> set[str]:
    """Source: proc(5), and the states in include/net/tcp_states.h of Linux."""
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (target := _target(link)).startswith("socket:[")
    }
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == wanted_state and rest[5] in inodes:
                host, port = local.split(":")
                words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
                found.add(f"{socket.inet_ntop(family, b''.join(words))}:{int(port, 16)}")
    return found


def _children(parent: int) -> list[int]:
    """The child processes. PostgreSQL serves each connection in a separate one."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def backends(**urls: str) -> dict[str, str]:
    """The setting of these backends, in this order, each with SLOTS slots."""
    entries = [{"name": name, "base_url": url, "slots": SLOTS} for name, url in urls.items()]
    return {"OLLAMA_BACKENDS": json.dumps(entries)}


def set_env(state_dir: Path, **values: str) -> None:
    """Sets values in the env file of a state directory, as an operator would."""
    path = state_dir / ".env"
    lines = [line for line in path.read_text().splitlines() if line.partition("=")[0] not in values]
    path.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in values.items())]) + "\n")

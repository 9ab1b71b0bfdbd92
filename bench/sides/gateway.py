"""The gateway of a checkout, started by its own `up`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.processes import Services
from bench.sides.side import BenchFailed, Side, process, wait_until
from bench.sides.upstream import ROOT

NAME = "gateway"
BASELINE = "baseline"
CONNECTIONS_MAX = 1000
# A text of 8 MiB and the JSON around it.
BODY_BYTES_MAX = 9 * 1024 * 1024
SETTINGS = {
    # High limits, so that no request is denied.
    "DEFAULT_RPM": "100000000",
    "DEFAULT_TPM": "100000000000",
    "DEFAULT_CONCURRENT": "10000",
    "OLLAMA_MAX_CONNECTIONS": str(CONNECTIONS_MAX),
    "MAX_REQUEST_BODY_BYTES": str(BODY_BYTES_MAX),
}
# The first use of a key costs what a sign-on costs. With the default costs, 10,000 keys would need most of an hour.
CHEAP_HASHES = {"ARGON2_TIME_COST": "1", "ARGON2_MEMORY_COST_KIB": "8", "ARGON2_PARALLELISM": "1"}
_START_TIMEOUT_S = 90.0
_SEED_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Checkout:
    """A source tree of the gateway with its virtual environment. `name` is that of the side.

    `settings` are set in addition to those of the run.
    """

    name: str
    directory: Path
    python: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def current(cls) -> Checkout:
        """The checkout that this module belongs to."""
        return cls(NAME, ROOT, sys.executable)

    @classmethod
    def baseline(cls, directory: Path, settings: str = "") -> Checkout:
        """The checkout to compare with, which may be the same one with other `settings`, `NAME=VALUE NAME=VALUE`.

        Raises BenchFailed if it has no virtual environment.
        """
        python = directory.resolve() / ".venv/bin/python"
        if not python.exists():
            raise BenchFailed(f"{python} does not exist; run `make .venv/.runtime` in {directory}")
        pairs = (pair.partition("=") for pair in settings.split())
        return cls(BASELINE, directory.resolve(), str(python), {name: value for name, _, value in pairs})

    def backend(self, upstream: Side, slots: int = CONNECTIONS_MAX) -> dict[str, object]:
        """The entry of the upstream in OLLAMA_BACKENDS. It serves all requests at once, so none waits in the queue."""
        has_queue = (self.directory / "gateway/queue").is_dir()
        entry = {"name": "bench", "base_url": f"http://{upstream.host}:{upstream.port}"}
        return {**entry, "slots": slots} if has_queue else dict(entry)

    def revision(self) -> str:
        """The commit, with `-dirty` after it if files differ, and the settings."""
        command = ["git", "-C", str(self.directory), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
        return " ".join([commit or "unknown", *(f"{name}={value}" for name, value in self.settings.items())])


@dataclass(frozen=True)
class Gateway:
    """A running gateway. `side` has no keys yet. `supervisor_pid` is the process that started all others."""

    checkout: Checkout
    env_file: Path
    settings: Mapping[str, str]
    side: Side
    supervisor_pid: int

    def with_keys(self, tenants: int, keys: int) -> Side:
        """The side with new keys, spread over new tenants. Raises BenchFailed."""
        script = Path(__file__).parents[1] / "seed_keys.py"
        # -P: the folder of the script is not searched for modules.
        command = [self.checkout.python, "-P", str(script), str(self.env_file), str(tenants), str(keys)]
        done = subprocess.run(  # noqa: S603 (the project's own script)
            command,
            capture_output=True,
            text=True,
            timeout=_SEED_TIMEOUT_S,
            check=False,
            cwd=self.checkout.directory,
            env={**os.environ, **self.settings},
        )
        if done.returncode != 0:
            raise BenchFailed(f"no keys for {self.side.name}: {done.stderr.strip()[-2000:]}")
        return replace(self.side, keys=json.loads(done.stdout))


@contextmanager
def gateway(
    checkout: Checkout,
    directory: Path,
    upstream: Side,
    workers: int,
    settings: Mapping[str, str],
    *,
    connections_max: int = CONNECTIONS_MAX,
) -> Iterator[Gateway]:
    """Runs the whole stack with `workers` processes each of authz and meter, and stops it. Raises BenchFailed."""
    root = directory / checkout.name
    root.mkdir(exist_ok=True)
    limit = {"OLLAMA_MAX_CONNECTIONS": str(connections_max)}
    settings = {**SETTINGS, **limit, **settings, **checkout.settings}
    ready_file, log = root / "ready.json", root / "up.log"
    settings["OLLAMA_BACKENDS"] = json.dumps([checkout.backend(upstream, connections_max)])
    command = [checkout.python, "-m", "ops.cli", "up", "--listen", "127.0.0.1:0"]
    command += ["--state-dir", str(root / "state"), "--ready-file", str(ready_file), "--workers", str(workers)]
    with process(command, log, env={**os.environ, **settings}, directory=checkout.directory) as started:
        wait_until(ready_file.exists, f"the {checkout.name}", started, log, _START_TIMEOUT_S)
        ready = json.loads(ready_file.read_text())
        url = urlsplit(ready["url"])

        def services() -> Services:
            # The file is written again when a process is replaced.
            found: dict[str, list[int]] = defaultdict(list)
            for name, pid in json.loads(ready_file.read_text())["pids"].items():
                found[name.partition("-")[0]].append(pid)
            return found

        side = Side(checkout.name, str(url.hostname), url.port or 0, services)
        yield Gateway(checkout, Path(ready["env_file"]), settings, side, started.pid)

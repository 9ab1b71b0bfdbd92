"""compose.yaml as an operator runs it, under a project of its own: started, asked, broken and taken down by the tests.

Images come from the variables of .env.example, so that a machine with other ones names them in the environment. Only
the model server is replaced, by one that simulates its command (`ollama_image/`), because no test downloads a model.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests import polling
from tests.ports import free_port

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
GATEWAY_IMAGE = os.environ.get("GATEWAY_IMAGE", "neuronetz-gateway:compose-test")
OLLAMA_IMAGE = "neuronetz-gateway-ollama:compose-test"
COMMAND_TIMEOUT_S = 600.0
WAIT_TIMEOUT_S = 90.0
SERVICES = ("authz", "meter", "control", "envoy", "caddy", "postgres", "redis", "ollama")


def run(*command: str, env: Mapping[str, str] | None = None, stdin: bytes | None = None) -> str:
    """What a command prints; fails with what it says on stderr when it fails."""
    done = subprocess.run(command, env=env, input=stdin, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout.decode()[-2000:]}{done.stderr.decode()[-4000:]}"
    return done.stdout.decode()


def eventually(condition: Callable[[], T | None], expected: str) -> T:
    """`polling.eventually` at the pace of containers. A failed connection or assertion counts as false."""
    retry_on = (httpx.TransportError, AssertionError)
    return polling.eventually(condition, WAIT_TIMEOUT_S, poll_s=0.5, retry_on=retry_on, failure=f"not: {expected}")


def build_images() -> list[str]:
    """Builds the gateway's image, unless $GATEWAY_IMAGE names one to test, and the simulated `ollama` on top of it."""
    made = [OLLAMA_IMAGE]
    if "GATEWAY_IMAGE" not in os.environ:
        base = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if "BASE_IMAGE" in os.environ else []
        run("docker", "build", "-q", *base, "-t", GATEWAY_IMAGE, str(ROOT))
        made.append(GATEWAY_IMAGE)
    here = Path(__file__).parent / "ollama_image"
    run("docker", "build", "-q", "--build-arg", f"GATEWAY_IMAGE={GATEWAY_IMAGE}", "-t", OLLAMA_IMAGE, str(here))
    return made


@dataclass
class Project:
    """One project. `settings` are its .env, beside which nothing of the caller's own .env counts."""

    name: str
    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ("compose.yaml",)

    def __post_init__(self) -> None:
        self.https_port = free_port()
        self.http_port = free_port()
        self.settings = {
            "GATEWAY_IMAGE": GATEWAY_IMAGE,
            "OLLAMA_IMAGE": OLLAMA_IMAGE,
            "OLLAMA_MEMORY": "512m",
            "PUBLISH_ADDRESS": "127.0.0.1",
            "HTTP_PORT": str(self.http_port),
            "HTTPS_PORT": str(self.https_port),
            "EDGE_SUBNET": "172.16.237.0/28",
            "GATEWAY_ENV_FILE": str(self.env_file),
            # What is tested is what happens, not how fast a machine that runs other things is.
            "REDIS_TIMEOUT_S": "3",
            "DATABASE_TIMEOUT_S": "10",
            "MODEL_DISCOVERY_REFRESH_S": "2",
            "DEFAULT_RPM": "1000000",
            "DEFAULT_TPM": "1000000000",
            "DEFAULT_CONCURRENT": "1000",
            **self.settings,
        }
        self.write_settings()

    @property
    def env_file(self) -> Path:
        """Its .env."""
        return self.directory / f"{self.name}.env"

    def write_settings(self) -> None:
        """As an operator does: .env.example with some lines changed."""
        lines = [
            line
            for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
            if line.partition("=")[0] not in {*self.settings, *_IMAGES}
        ]
        lines += [f"{name}={value}" for name, value in self.settings.items()]
        self.env_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.env_file.chmod(0o600)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of `docker compose` for this project."""
        return {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_FILE": os.pathsep.join(str(ROOT / name) for name in self.files),
            "COMPOSE_ENV_FILES": str(self.env_file),
            "COMPOSE_PROGRESS": "quiet",
        }

    def compose(self, *arguments: str, stdin: bytes | None = None) -> str:
        """`docker compose …`."""
        return run("docker", "compose", *arguments, env=self.environ, stdin=stdin)

    def up(self, *arguments: str) -> None:
        """Starts what is not running, and waits until all of it is healthy."""
        self.compose("up", "-d", "--wait", "--no-build", *arguments)

    def down(self) -> None:
        """Removes containers, networks and every volume of the project."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")

    def left(self) -> list[str]:
        """What Docker still has of this project."""
        mine = ("--filter", f"label=com.docker.compose.project={self.name}")
        kinds = {"container": ("-a", "-q"), "volume": ("-q",), "network": ("-q",)}
        return [each for kind, options in kinds.items() for each in run("docker", kind, "ls", *options, *mine).split()]

    def containers(self, service: str) -> list[str]:
        """Ids of the containers of a service, stopped ones too."""
        return self.compose("ps", "-a", "-q", service).split()

    def inspect(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the first container of a service."""
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", self.containers(service)[0]))
        return found[0]

    def execute(self, service: str, *command: str) -> str:
        """Runs a command in a running service."""
        return self.compose("exec", "-T", service, *command)

    def cli(self, *arguments: str) -> Any:
        """An operator's command, in control."""
        return json.loads(self.execute("control", "neuronetz-gateway", *arguments, "--json"))

    def sql(self, query: str) -> list[list[str]]:
        """Rows of a query as psql prints them."""
        psql = ("psql", "-h", "127.0.0.1", "-U", "gateway", "-d", "gateway", "-At", "-c", query)
        return [line.split("|") for line in self.execute("postgres", *psql).splitlines()]

    def kill(self, service: str) -> None:
        """Kills the service's first process from outside, as the kernel would; the engine must start it again."""
        container = self.containers(service)[0]
        before, pid = run("docker", "inspect", "-f", "{{.RestartCount}} {{.State.Pid}}", container).split()
        helper = ("docker", "run", "--rm", "--pid", "host", "--network", "none", "--user", "0", "--cap-drop", "ALL")
        script = "import os, sys; os.kill(int(sys.argv[1]), 9)"
        run(*helper, "--cap-add", "KILL", "--entrypoint", "python", GATEWAY_IMAGE, "-c", script, pid)

        def again() -> bool:
            count = run("docker", "inspect", "-f", "{{.RestartCount}}", container).strip()
            return count != before

        eventually(again, f"{service} is started again")

    @property
    def url(self) -> str:
        """Where Caddy answers."""
        return f"https://localhost:{self.https_port}"

    def authority(self) -> ssl.SSLContext:
        """Trust in Caddy's own authority and in no other."""
        root = self.execute("caddy", "cat", "/data/caddy/pki/authorities/local/root.crt")
        return ssl.create_default_context(cadata=root)

    @contextmanager
    def client(self, key: str = "") -> Iterator[httpx.Client]:
        """A client of the gateway, through Caddy."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=self.url, verify=self.authority(), headers=headers, timeout=30.0) as client:
            yield client


# These come from the environment when it names them, and else from compose.yaml's own defaults.
_IMAGES = ("BASE_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE", "ENVOY_IMAGE", "CADDY_IMAGE")

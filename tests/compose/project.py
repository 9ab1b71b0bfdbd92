"""compose.yaml as an operator runs it, as a separate project that the tests start, query, break and remove.

The variables of .env.example name the images, so the environment can name other ones. Only the image of the model
server is replaced, by a simulation of its command (`ollama_image/`), because no test downloads a model.
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
    """Runs a command and returns its stdout. Raises AssertionError with its output if it fails."""
    done = subprocess.run(command, env=env, input=stdin, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout.decode()[-2000:]}{done.stderr.decode()[-4000:]}"
    return done.stdout.decode()


def eventually(condition: Callable[[], T | None], expected: str) -> T:
    """`polling.eventually` at the pace of containers. A failed connection or assertion counts as false."""
    retry_on = (httpx.TransportError, AssertionError)
    return polling.eventually(condition, WAIT_TIMEOUT_S, poll_s=0.5, retry_on=retry_on, failure=f"not: {expected}")


def build_images() -> list[str]:
    """Builds the gateway's image, unless $GATEWAY_IMAGE names one, and the simulated `ollama` on top of it.

    Returns the names of the images that it built.
    """
    built = [OLLAMA_IMAGE]
    if "GATEWAY_IMAGE" not in os.environ:
        base = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if "BASE_IMAGE" in os.environ else []
        run("docker", "build", "-q", *base, "-t", GATEWAY_IMAGE, str(ROOT))
        built.append(GATEWAY_IMAGE)
    here = Path(__file__).parent / "ollama_image"
    run("docker", "build", "-q", "--build-arg", f"GATEWAY_IMAGE={GATEWAY_IMAGE}", "-t", OLLAMA_IMAGE, str(here))
    return built


@dataclass
class Project:
    """One project. `settings` are the values of its .env file; the operator's own .env file is not read."""

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
            # The tests must not depend on the speed of a busy machine.
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
        """The path of its .env file."""
        return self.directory / f"{self.name}.env"

    def write_settings(self) -> None:
        """Writes .env.example with the values of `settings`, as an operator would."""
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
        """Runs `docker compose` with these arguments and returns its stdout."""
        return run("docker", "compose", *arguments, env=self.environ, stdin=stdin)

    def up(self, *arguments: str) -> None:
        """Starts the services that do not run, and waits until all are healthy."""
        self.compose("up", "-d", "--wait", "--no-build", *arguments)

    def down(self) -> None:
        """Removes the containers, networks and volumes of the project."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")

    def remaining_resources(self) -> list[str]:
        """The ids of the containers, volumes and networks of this project."""
        label = ("--filter", f"label=com.docker.compose.project={self.name}")
        kinds = {"container": ("-a", "-q"), "volume": ("-q",), "network": ("-q",)}
        return [each for kind, options in kinds.items() for each in run("docker", kind, "ls", *options, *label).split()]

    def containers(self, service: str) -> list[str]:
        """The ids of the containers of a service, including stopped ones."""
        return self.compose("ps", "-a", "-q", service).split()

    def inspect(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the first container of a service."""
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", self.containers(service)[0]))
        return found[0]

    def execute(self, service: str, *command: str) -> str:
        """Runs a command in a running service and returns its stdout."""
        return self.compose("exec", "-T", service, *command)

    def cli(self, *arguments: str) -> Any:
        """Runs an operator command in control and returns its parsed output."""
        return json.loads(self.execute("control", "neuronetz-gateway", *arguments, "--json"))

    def sql(self, query: str) -> list[list[str]]:
        """The rows of a query, as text."""
        psql = ("psql", "-h", "127.0.0.1", "-U", "gateway", "-d", "gateway", "-At", "-c", query)
        return [line.split("|") for line in self.execute("postgres", *psql).splitlines()]

    def kill(self, service: str) -> None:
        """Kills the main process of a service from outside, as the kernel would. Waits until the engine restarts it."""
        container = self.containers(service)[0]
        before, pid = run("docker", "inspect", "-f", "{{.RestartCount}} {{.State.Pid}}", container).split()
        helper = ("docker", "run", "--rm", "--pid", "host", "--network", "none", "--user", "0", "--cap-drop", "ALL")
        script = "import os, sys; os.kill(int(sys.argv[1]), 9)"
        run(*helper, "--cap-add", "KILL", "--entrypoint", "python", GATEWAY_IMAGE, "-c", script, pid)

        def restarted() -> bool:
            count = run("docker", "inspect", "-f", "{{.RestartCount}}", container).strip()
            return count != before

        eventually(restarted, f"{service} is restarted")

    @property
    def url(self) -> str:
        """The URL of Caddy."""
        return f"https://localhost:{self.https_port}"

    def authority(self) -> ssl.SSLContext:
        """A TLS context that trusts only Caddy's internal authority."""
        root = self.execute("caddy", "cat", "/data/caddy/pki/authorities/local/root.crt")
        return ssl.create_default_context(cadata=root)

    @contextmanager
    def client(self, key: str = "") -> Iterator[httpx.Client]:
        """An HTTP client that reaches the gateway through Caddy."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=self.url, verify=self.authority(), headers=headers, timeout=30.0) as client:
            yield client


# The environment may name these images. Otherwise the defaults of compose.yaml apply.
_IMAGES = ("BASE_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE", "ENVOY_IMAGE", "CADDY_IMAGE")

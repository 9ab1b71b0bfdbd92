"""The whole stack of one state directory, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.settings import Settings
from ops.backends import ca_files
from ops.data_plane import envoy_files
from ops.database import migrate
from ops.embedded import configuration, ports, ready_file, services, stores
from ops.embedded.child import Child
from ops.embedded.errors import StackError
from ops.embedded.options import Options
from ops.embedded.progress import Progress
from ops.embedded.ready_file import Endpoints
from ops.embedded.state import State, open_state
from ops.embedded.supervisor import Supervisor
from ops.host import env_file, probes

# Two sockets a stream in Envoy and one in a worker: the usual soft limit of 1024 is soon reached.
_OPEN_FILES_WANTED = 65_536
_READY_TIMEOUT_S = 60.0
_READY_POLL_S = 0.05
_BACKENDS_TIMEOUT_S = 5.0
_AUTHORITY_ROOT = "caddy-root.crt"

Environment = dict[str, str]
Extra = Callable[[State, Environment], Sequence[Child]]


def nothing(_: State, __: Environment) -> Sequence[Child]:
    """No children beside the services."""
    return ()


@dataclass(frozen=True)
class Stack:
    """A stack that answers. `env` is the environment for more programs of this distribution."""

    endpoints: Endpoints
    settings: Settings
    env: Environment

    @property
    def authority_root(self) -> Path:
        """The certificate that verifies `endpoints.tls_url`."""
        return self.endpoints.state_dir / _AUTHORITY_ROOT


@contextlib.asynccontextmanager
async def running(
    options: Options, progress: Progress, force_stop: asyncio.Event, extra: Extra = nothing
) -> AsyncIterator[Stack]:
    """Gives the stack when every part answers, and stops all of it when the context is left.

    `extra` describes children to start before the services. Once `force_stop` is set, stopping waits for nothing.
    Must be entered in the main thread. Raises StackError, ProgramNotFound or SettingsError; no process is left then.
    """
    if sys.platform != "linux":
        raise StackError("the embedded stack needs Linux; use Docker Compose on other systems")
    os.umask(0o077)
    _raise_open_files_limit()
    with open_state(options.state_dir) as state:
        # One that a killed stack left behind would tell lies meanwhile.
        _remove(options.ready_file)
        async with Supervisor(progress.notice, force_stop) as supervisor:
            try:
                stack = await _start(options, state, supervisor, progress, extra)
                _publish(options.ready_file, stack.endpoints, supervisor, progress)
                progress.done()
                yield stack
            finally:
                supervisor.follow(None)
                _remove(options.ready_file)


async def _start(options: Options, state: State, supervisor: Supervisor, progress: Progress, extra: Extra) -> Stack:
    listen = configuration.listen_address(options, env_file.read(state.env_file))
    ports.require_free("--listen", listen.host, listen.port)
    tls = options.tls and options.tls.settled()
    if tls is not None:
        ports.require_free("--tls", tls.host, tls.port)
    at = stores.addresses(state)
    sockets = configuration.write(state, options, listen, at)
    settings = configuration.settings(state, os.environ, options)
    ca_files.read(settings)
    env = {**configuration.inherited(os.environ, options), "GATEWAY_ENV_FILE": str(state.env_file)}

    progress.step("Starting PostgreSQL and Redis")
    await stores.start(supervisor, state, at, redis_program=options.redis_server)
    progress.step("Bringing the database schema up to date")
    await migrate.upgrade(settings)
    progress.step("Starting authz, meter and control")
    envoy_files.write(settings, state.envoy)
    await supervisor.start(*extra(state, env))
    await supervisor.start(*services.workers(settings, state, sockets, env, at.service_env()))
    progress.step("Starting Envoy" if tls is None else "Starting Envoy and Caddy")
    # One stage, so that both stop taking requests at the same moment and wait for the same streams.
    edge = [services.envoy(settings, state, sockets)]
    if tls is not None:
        edge.append(services.caddy(settings, state, tls, listen.reach()))
    await supervisor.start(*edge)
    if tls is not None:
        shutil.copyfile(services.authority_root(state), state.root / _AUTHORITY_ROOT)
    url = f"http://{listen.reach()}"
    progress.step("Waiting for every part to answer")
    await _until_serving(url, progress)
    endpoints = Endpoints(url, f"https://{tls.reach()}" if tls else None, state.env_file, state.root)
    return Stack(endpoints, settings, env)


async def _until_serving(url: str, progress: Progress) -> None:
    """Returns once `/readyz` says yes. The parts of the stack get a minute; backends, which are none, a few seconds."""
    started = time.monotonic()
    while True:
        status, text = await probes.get(f"{url}/readyz")
        if status == 200:
            return
        waited_s = time.monotonic() - started
        missing = _missing(text) if status == 503 else []
        if missing == ["backends"] and waited_s > _BACKENDS_TIMEOUT_S:
            progress.notice("No Ollama backend answers yet; requests get 503 until one does")
            return
        if waited_s > _READY_TIMEOUT_S:
            reason = f"{', '.join(missing)} missing" if missing else f"status {status or 'none'}"
            raise StackError(f"the gateway did not become ready within {_READY_TIMEOUT_S:.0f} s: {reason}")
        await asyncio.sleep(_READY_POLL_S)


def _missing(text: str) -> list[str]:
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return []
    return [str(name) for name in answer] if isinstance(answer, list) else []


def _publish(path: Path | None, endpoints: Endpoints, supervisor: Supervisor, progress: Progress) -> None:
    if path is None:
        return
    ready_file.write(path, endpoints, supervisor.pids)

    def rewrite(pids: ready_file.Pids) -> None:
        try:
            ready_file.write(path, endpoints, pids)
        except OSError as error:
            progress.notice(f"{path} could not be rewritten: {error.strerror}")

    supervisor.follow(rewrite)


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _raise_open_files_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

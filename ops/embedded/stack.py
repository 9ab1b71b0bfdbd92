"""The complete stack of one state directory, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.settings import Settings, misspelt_names
from ops.backends import ca_files
from ops.data_plane import envoy_files
from ops.embedded import configuration, metrics_targets, ports, ready_file, services, stores
from ops.embedded.child import Child
from ops.embedded.errors import StackError
from ops.embedded.forked_process import ForkServer
from ops.embedded.options import HostPort, StackOptions
from ops.embedded.progress import Progress
from ops.embedded.ready_file import Endpoints
from ops.embedded.state import AUTHORITY_ROOT, StateDirectory, open_state
from ops.embedded.supervisor import Supervisor
from ops.host import env_file, probes

# A stream needs two sockets in Envoy and one in a worker, so the usual soft limit of 1024 is too low.
_OPEN_FILES_WANTED = 65_536
_READY_TIMEOUT_S = 60.0
_READY_POLL_S = 0.05
_BACKENDS_TIMEOUT_S = 5.0

Environment = dict[str, str]
ExtraChildren = Callable[[StateDirectory, Environment], Sequence[Child]]


def no_children(_: StateDirectory, __: Environment) -> Sequence[Child]:
    """Returns no additional children."""
    return ()


@dataclass(frozen=True)
class Stack:
    """A ready stack. `env` is the environment for other programs of this distribution.

    `listen` and `tls` are the addresses that Envoy and Caddy are bound to.
    """

    endpoints: Endpoints
    settings: Settings
    env: Environment
    listen: HostPort
    tls: HostPort | None

    @property
    def authority_root(self) -> Path:
        """The path of the certificate that verifies `endpoints.tls_url`."""
        return self.endpoints.state_dir / AUTHORITY_ROOT


@dataclass(frozen=True, slots=True)
class Prepared:
    """What has to exist before the event loop: the locked state directory, and the fork server."""

    state: StateDirectory
    fork_server: ForkServer


@contextlib.contextmanager
def prepare(options: StackOptions) -> Iterator[Prepared]:
    """Locks the state directory and forks the fork server from this process, which must have no other thread.

    Both last until the context ends. Enter it in the main thread. Raises StackError.
    """
    if sys.platform != "linux":
        raise StackError("the embedded stack needs Linux; use Docker Compose on other systems")
    os.umask(0o077)
    _raise_open_files_limit()
    with open_state(options.state_dir) as state:
        env = configuration.inherited_environment(os.environ, options)
        fork_server = ForkServer(env, state.root, state.log_file("fork-server"))
        fork_server.fork_from_this_process()
        try:
            yield Prepared(state, fork_server)
        finally:
            fork_server.kill_forked()


@contextlib.asynccontextmanager
async def running(
    prepared: Prepared,
    options: StackOptions,
    progress: Progress,
    force_stop: asyncio.Event,
    extra_children: ExtraChildren = no_children,
) -> AsyncIterator[Stack]:
    """Starts the stack, yields it when every part is ready, and stops it when the context ends.

    `extra_children` describes children to start before the services. Once `force_stop` is set, stopping skips all grace
    periods. Enter it in the main thread. Raises StackError, ProgramNotFound or SettingsError; no process remains
    then.
    """
    state = prepared.state
    # A file of a stack that was killed would name processes that no longer run.
    _remove_ready_files(options, state)
    async with Supervisor(progress.notice, force_stop, prepared.fork_server) as supervisor:
        try:
            stack = await _start(options, state, supervisor, progress, extra_children)
            _publish_ready_files(options, state, stack.endpoints, supervisor, progress)
            progress.done()
            yield stack
        finally:
            supervisor.set_pids_listener(None)
            _remove_ready_files(options, state)


async def _start(
    options: StackOptions,
    state: StateDirectory,
    supervisor: Supervisor,
    progress: Progress,
    extra_children: ExtraChildren,
) -> Stack:
    current = env_file.read(state.env_file)
    listen = configuration.listen_address(options, current)
    ports.require_free("--listen", listen.host, listen.port)
    tls = configuration.tls_address(options, current)
    if tls is not None:
        ports.require_free("--tls", tls.host, tls.port)
    addresses = stores.choose_addresses(state)
    if removed := configuration.removed_backends(options, current):
        progress.notice(f"Removed from the backends, because --backend does not name them: {', '.join(removed)}")
    sockets = configuration.write_env_file(state, options, listen, addresses, tls)
    settings = configuration.load_settings(state, os.environ, options)
    for name, meant in misspelt_names(state.env_file).items():
        progress.notice(f"Warning: there is no setting {name}; did you mean {meant}?")
    ca_files.read(settings)
    metrics_targets.write(state, metrics_targets.addresses(settings.metrics_listen, sockets))
    env = {**configuration.inherited_environment(os.environ, options), "GATEWAY_ENV_FILE": str(state.env_file)}

    progress.step("Starting PostgreSQL and Redis")
    await stores.start(supervisor, state, addresses, redis_program=options.redis_server)
    progress.step("Bringing the database schema up to date")
    # The fork server, which has the modules of this process at its start, does not need Alembic.
    from ops.database import migrate

    await migrate.upgrade(settings)
    progress.step("Starting authz, meter and control")
    envoy_files.write(settings, state.envoy)
    await supervisor.start(*extra_children(state, env))
    await supervisor.start(*services.gateway_services(settings, state, sockets, env, addresses.service_env()))
    progress.step("Starting Envoy" if tls is None else "Starting Envoy and Caddy")
    # One stage, so that both stop accepting requests at the same time and wait for the same streams.
    edge = [services.envoy(settings, state, sockets)]
    if tls is not None:
        edge.append(services.caddy(settings, state, tls, listen.reachable()))
    await supervisor.start(*edge)
    if tls is not None:
        shutil.copyfile(services.authority_root(state), state.root / AUTHORITY_ROOT)
    url = f"http://{listen.reachable()}"
    progress.step("Waiting for every part to answer")
    await _wait_until_ready(url, progress)
    endpoints = Endpoints(url, f"https://{tls.reachable()}" if tls else None, state.env_file, state.root)
    return Stack(endpoints, settings, env, listen, tls)


async def _wait_until_ready(url: str, progress: Progress) -> None:
    """Returns when `/readyz` returns 200.

    The parts of the stack have _READY_TIMEOUT_S to get ready. Backends are not part of the stack: after
    _BACKENDS_TIMEOUT_S without one, the stack counts as ready. Raises StackError.
    """
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


def _publish_ready_files(
    options: StackOptions,
    state: StateDirectory,
    endpoints: Endpoints,
    supervisor: Supervisor,
    progress: Progress,
) -> None:
    started_at = datetime.now(UTC)

    def write(pids: ready_file.Pids) -> None:
        ready_file.write_running(state, endpoints, pids, started_at)
        if options.ready_file is not None:
            ready_file.write(options.ready_file, endpoints, pids)

    def rewrite(pids: ready_file.Pids) -> None:
        try:
            write(pids)
        except OSError as error:
            progress.notice(f"{error.filename} could not be rewritten: {error.strerror}")

    write(supervisor.pids)
    supervisor.set_pids_listener(rewrite)


def _remove_ready_files(options: StackOptions, state: StateDirectory) -> None:
    state.running.unlink(missing_ok=True)
    if options.ready_file is not None:
        options.ready_file.unlink(missing_ok=True)


def _raise_open_files_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

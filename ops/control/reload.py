"""Applies changes of the backends in the env file, and of the authorities in a `ca_file`, without a restart.

A change is validated by the same rules as a start. An invalid change is rejected with one line in the log, and the
former configuration stays in force. In this order no request names a cluster that Envoy does not have: Envoy receives
the new clusters and confirms that it uses them; then the snapshot with the new backends is published; when no running
check can have read the former snapshot, the removed clusters are taken from Envoy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from gateway.catalog.store import POLL_S as SNAPSHOT_POLL_S
from gateway.errors import SettingsError
from gateway.loops import Backoff, forever, retry
from gateway.settings import BACKEND_SETTINGS, Settings, load
from gateway.settings.backend import Backend
from gateway.wire.timeouts import CHECK_TIMEOUT_S
from ops.control.discovery import Discovery
from ops.control.file_watch import FilesWatch
from ops.control.rollout import Rollout
from ops.data_plane.admin import ClustersNotApplied

log = structlog.get_logger()

POLL_S = 0.2
RETRY_S = 10.0
_ENVOY_BACKOFF = Backoff(first_s=RETRY_S, max_s=RETRY_S)


@dataclass(frozen=True, slots=True)
class Change:
    """The names of the added, removed and changed backends, and of all in their new order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    order: tuple[str, ...]


def compare(
    before: tuple[Backend, ...], after: tuple[Backend, ...], renewed: frozenset[str] = frozenset()
) -> Change | None:
    """None when the backends are the same in the same order and none has a `renewed` authority.

    The result does not contain what changed in a backend, because that may be a token.
    """
    if before == after and not renewed:
        return None
    old, new = {backend.name: backend for backend in before}, {backend.name: backend for backend in after}
    return Change(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in new if name in old and (new[name] != old[name] or name in renewed)),
        order=tuple(new),
    )


def need_restart(running: Settings, read: Settings) -> frozenset[str]:
    """The names, as in an env file, of the settings that have changed and take effect at the next start."""
    names = set(Settings.model_fields) - set(BACKEND_SETTINGS)
    return frozenset(name.upper() for name in names if getattr(running, name) != getattr(read, name))


def retirement_s(redis_timeout_s: float) -> float:
    """How long after a snapshot is published a check may still use the former one, in seconds.

    An authz is notified at once or polls within SNAPSHOT_POLL_S, with two calls to Redis, and a check that read the
    former snapshot ends within CHECK_TIMEOUT_S. An authz that cannot reach Redis meanwhile admits no request.
    """
    return SNAPSHOT_POLL_S + 2 * redis_timeout_s + CHECK_TIMEOUT_S + 1.0


class Reload:
    """`start` applies the initial settings to Envoy. `run` follows the env file, if there is one, and the authorities
    of the backends."""

    def __init__(
        self,
        settings: Settings,
        env_file: Path | None,
        rollout: Rollout,
        discovery: Discovery,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._started_with = settings
        self._settings = settings
        self._env_file = env_file
        self._files = FilesWatch()
        self._requested = settings.backends
        self._rollout = rollout
        self._discovery = discovery
        self._monotonic = monotonic
        self._restart_needed: frozenset[str] = frozenset()
        self._retire_at: float | None = None
        self._retry_at: float | None = None

    async def start(self) -> None:
        """Returns when a request may name the backends; they must not be published before. Raises SettingsError."""
        start = partial(self._rollout.start, self._settings)
        await retry(start, on_error="backends_postponed", backoff=_ENVOY_BACKOFF, errors=(ClustersNotApplied,))

    async def run(self) -> None:
        """Follows the files until cancelled."""
        await self._publish()
        await forever(self._poll, POLL_S, on_error="backends_not_polled")

    async def _poll(self) -> None:
        if self._files.changed(self._sources()) or self._is_due(self._retry_at):
            self._retry_at = None
            await self._read()
        if self._is_due(self._retire_at):
            await self._retire()

    def _sources(self) -> set[Path]:
        """The env file, and the authorities of the backends in force and of those that were rejected last."""
        authorities = (backend.ca_file for backend in (*self._settings.backends, *self._requested))
        return {path for path in (self._env_file, *authorities) if path is not None}

    async def _read(self) -> None:
        try:
            read = load(self._env_file)
            self._requested = read.backends
            await self._apply(self._started_with.with_backends_of(read))
        except (SettingsError, OSError) as error:
            log.error("backends_refused", reason=str(error))
            return
        except ClustersNotApplied as error:
            log.error("backends_postponed", reason=str(error), retry_in_s=RETRY_S)
            self._retry_at = self._monotonic() + RETRY_S
            return
        needed = need_restart(self._started_with, read)
        if needed - self._restart_needed:
            log.warning("restart_needed", settings=sorted(needed))
        self._restart_needed = needed

    async def _apply(self, wanted: Settings) -> None:
        change = compare(self._settings.backends, wanted.backends, self._rollout.renewed(wanted))
        if change is None:
            return
        await self._rollout.advance(wanted)
        self._settings = wanted
        await self._publish()
        log.info(
            "backends_changed", added=change.added, removed=change.removed, changed=change.changed, order=change.order
        )

    async def _retire(self) -> None:
        try:
            await self._rollout.retire(self._settings)
        except (ClustersNotApplied, OSError) as error:
            log.error("backends_not_retired", reason=str(error), retry_in_s=RETRY_S)
            self._retire_at = self._monotonic() + RETRY_S
        else:
            self._retire_at = None

    async def _publish(self) -> None:
        """Publishes the backends. Until Redis has accepted them, Envoy keeps those that were removed."""
        await retry(partial(self._discovery.use, self._settings.backends), on_error="snapshot_not_published")
        self._retire_at = self._monotonic() + retirement_s(self._settings.redis_timeout_s)

    def _is_due(self, at: float | None) -> bool:
        return at is not None and self._monotonic() >= at

"""The metrics of control: the quota's state in Redis, discovery and the backends."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

import prometheus_client
from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.catalog.snapshot import BackendState
from gateway.errors import StoreUnavailable
from gateway.metrics.registry import OTHER, REGISTRY, BoundedNames
from gateway.queue.port import Queue
from gateway.quota.port import Quota, Watermark
from gateway.stores.postgres import Database
from ops.control import queue_metrics
from ops.control.discovery import Discovery
from ops.database.checkpoints import CheckpointStore
from ops.database.recorded_tokens import recorded_tokens, tenant_names

HOLDS = Gauge(
    "neuronetz_holds", "Holds of admitted requests that are not settled; NaN without Redis.", registry=REGISTRY
)
BACKLOG_EVENTS = Gauge(
    "neuronetz_backlog_events", "Ledger events that wait for PostgreSQL; NaN without Redis.", registry=REGISTRY
)
DRAIN_LAG_SECONDS = Gauge(
    "neuronetz_drain_lag_seconds",
    "Age of the oldest ledger event that waits for PostgreSQL, 0 without one; NaN without Redis.",
    registry=REGISTRY,
)
DISCOVERY_AGE_SECONDS = Gauge(
    "neuronetz_discovery_age_seconds",
    "Time since discovery published the catalog; NaN before the first time.",
    registry=REGISTRY,
)
BACKEND_UP = Gauge(
    "neuronetz_backend_up", "1 while the backend answers discovery, else 0.", ("backend",), registry=REGISTRY
)
BACKEND_REPLICAS = Gauge(
    "neuronetz_backend_replicas", "Configured replicas of the backend.", ("backend",), registry=REGISTRY
)
BACKEND_INFO = Gauge(
    "neuronetz_backend_info",
    "Always 1; the label is the last Ollama version that the backend reported.",
    ("backend", "version"),
    registry=REGISTRY,
)
CHECKPOINT_AGE_SECONDS = Gauge(
    "neuronetz_checkpoint_age_seconds",
    "Time since the last signed checkpoint was delivered; NaN without one, and without PostgreSQL.",
    registry=REGISTRY,
)
CHECKPOINT_AGE_SECONDS.set(math.nan)
CHECKPOINT_FAILURES = prometheus_client.Counter(
    "neuronetz_checkpoint_failures", "Checkpoints that could not be signed or delivered.", registry=REGISTRY
)
_VERSION_CHARACTERS_MAX = 64


class RecordedTokens(Collector):
    """The counter of all tokens that PostgreSQL has recorded. It survives every process, unlike those of the meters."""

    def __init__(self) -> None:
        self.totals: Mapping[tuple[str, str], int] = {}

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        family = CounterMetricFamily(
            "neuronetz_recorded_tokens", "Tokens that PostgreSQL has recorded since its creation.", labels=_TOKEN_LABELS
        )
        for labels, tokens in self.totals.items():
            family.add_metric(labels, tokens)
        yield family


_TOKEN_LABELS = ("tenant", "kind")
RECORDED_TOKENS = RecordedTokens()
REGISTRY.register(RECORDED_TOKENS)


class Sampling:
    """Sets the metrics of control. `now` returns seconds since the epoch.

    The first `tenants_max` tenants have their own label value. Without a `queue` its metrics have no values.
    """

    def __init__(
        self,
        quota: Quota,
        discovery: Discovery,
        database: Database,
        tenants_max: int,
        queue: Queue | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._quota = quota
        self._discovery = discovery
        self._database = database
        self._tenants = BoundedNames(tenants_max)
        self._queue = queue
        self._now = now

    async def sample(self) -> None:
        """Sets all metrics once."""
        DISCOVERY_AGE_SECONDS.set(self._discovery.age_s)
        set_backends(self._discovery.states)
        await asyncio.gather(self._sample_quota(), self._sample_ledger(), self._sample_queue())

    async def _sample_queue(self) -> None:
        if self._queue is None:
            return
        try:
            status = await self._queue.status()
            tenants = await tenant_names(self._database, status.tenants) if status.tenants else {}
        except StoreUnavailable:
            queue_metrics.clear()
            return
        queue_metrics.set_queue(status, {state.name for state in self._discovery.states}, tenants, self._tenants)

    async def _sample_ledger(self) -> None:
        """Without an answer of PostgreSQL there are no samples, because a counter cannot be unknown."""
        totals: Counter[tuple[str, str]] = Counter()
        checkpoint_age_s = math.nan
        with suppress(StoreUnavailable):
            if (made_at := await CheckpointStore(self._database).made_at()) is not None:
                checkpoint_age_s = self._now() - made_at.timestamp()
            for tenant in await recorded_tokens(self._database):
                label = OTHER if tenant.name is None else self._tenants.label(tenant.name)
                totals[label, "input"] += tenant.input_tokens
                totals[label, "output"] += tenant.output_tokens
        RECORDED_TOKENS.totals = totals
        CHECKPOINT_AGE_SECONDS.set(checkpoint_age_s)

    async def _sample_quota(self) -> None:
        """Without an answer of Redis the gauges become NaN, because an old value would look healthy."""
        try:
            backlog, watermark = await self._quota.backlog(), await self._quota.watermark()
        except StoreUnavailable:
            for gauge in (HOLDS, BACKLOG_EVENTS, DRAIN_LAG_SECONDS):
                gauge.set(math.nan)
            return
        HOLDS.set(backlog.holds)
        BACKLOG_EVENTS.set(backlog.events)
        DRAIN_LAG_SECONDS.set(drain_lag_s(watermark, self._now()))


def drain_lag_s(watermark: Watermark, now_s: float) -> float:
    """The age of the oldest waiting event of all shards at `now_s` (seconds since the epoch)."""
    oldest_ms = min((event_id[0] for event_id in watermark.oldest if event_id is not None), default=None)
    return 0.0 if oldest_ms is None else max(now_s - oldest_ms / 1000, 0.0)


def set_backends(states: Iterable[BackendState]) -> None:
    """Sets the gauges of the backends to `states`; removed backends have none."""
    for gauge in (BACKEND_UP, BACKEND_REPLICAS, BACKEND_INFO):
        gauge.clear()
    for state in states:
        BACKEND_UP.labels(state.name).set(state.answers)
        BACKEND_REPLICAS.labels(state.name).set(state.replicas)
        if state.version:
            BACKEND_INFO.labels(state.name, state.version[:_VERSION_CHARACTERS_MAX]).set(1)

"""The metrics of the meter.

Those of finished requests are counted where the drain has appended rows to the ledger, and only for rows that were new.
A duplicate delivery or a resubmission therefore counts once, and the sums over all meters equal the audit rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from prometheus_client import Counter, Gauge

from gateway.errors import Code
from gateway.metrics.registry import LOOP_BUCKETS_S, OTHER, REGISTRY, BoundedNames, Histogram
from gateway.record.entry import Entry
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME

# Discovery bounds the models of admitted requests, and this bounds those that operators add and remove over time.
MODELS_MAX = 100
NONE = "none"
"""The label value of a row without this column."""

_ANSWER_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_RATE_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0)
_CODES = frozenset(map(str, Code))

MESSAGE_SECONDS = Histogram(
    "neuronetz_chunk_seconds",
    "Time of the meter's work on one message of Envoy: a head, a body, or a chunk of an answer.",
    LOOP_BUCKETS_S,
).labels()
LEASES = Gauge("neuronetz_leases", "Running requests whose holds this worker renews.", registry=REGISTRY)
QUEUE_MOVES = Counter(
    "neuronetz_queue_moves",
    "Further attempts of requests with a slot, by how they got one at their replica.",
    ("result",),
    registry=REGISTRY,
)
LEDGER_ROWS = Counter(
    "neuronetz_ledger_rows",
    "Audit rows that this worker appended, by surface, outcome and error code.",
    ("surface", "outcome", "code"),
    registry=REGISTRY,
)
TOKENS = Counter(
    "neuronetz_tokens",
    "Tokens of the audit rows that this worker appended.",
    ("tenant", "model", "kind"),
    registry=REGISTRY,
)
DELIVERED_TOKENS = Counter(
    "neuronetz_delivered_tokens",
    "Output tokens that this worker delivered, counted while answers are streamed.",
    ("tenant",),
    registry=REGISTRY,
)
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "neuronetz_time_to_first_token_seconds",
    "Time from the meter's first message to the first byte of the answer.",
    _ANSWER_BUCKETS_S,
    ("model",),
)
ANSWER_SECONDS = Histogram(
    "neuronetz_answer_seconds",
    "Time from the meter's first message to the end of the answer.",
    _ANSWER_BUCKETS_S,
    ("model",),
)
TOKENS_PER_SECOND = Histogram(
    "neuronetz_output_tokens_per_second",
    "Output tokens per second after the first byte, of complete streams.",
    _RATE_BUCKETS,
    ("model",),
)
LEDGER_REJECTS = Counter(
    "neuronetz_ledger_rejects", "Entries that PostgreSQL refused and the drain set aside.", registry=REGISTRY
)

# Bounded like the label values. A lookup by `labels` takes several times longer.
_rows = cache(LEDGER_ROWS.labels)
_tokens = cache(TOKENS.labels)


class LedgerMetrics:
    """Counts entries that have become audit rows. `tenants_max` bounds the tenants with their own label value."""

    def __init__(self, tenants_max: int) -> None:
        self._tenants = BoundedNames(tenants_max)
        self._models = BoundedNames(MODELS_MAX)

    def record(self, entries: Sequence[Entry]) -> None:
        """Counts new rows, each exactly once."""
        for entry in entries:
            surface = NONE if entry.surface is None else entry.surface if entry.surface in BY_NAME else OTHER
            code = NONE if entry.code is None else entry.code if entry.code in _CODES else OTHER
            _rows(surface, entry.outcome, code).inc()
            if entry.outcome is not Outcome.DENIED:
                self._record_usage(entry)

    def _record_usage(self, entry: Entry) -> None:
        tenant, model = self._tenants.label(entry.tenant or NONE), self._models.label(entry.model or NONE)
        _tokens(tenant, model, "input").inc(entry.input_tokens)
        _tokens(tenant, model, "output").inc(entry.output_tokens)
        if entry.ttft_ms is None or entry.duration_ms is None:
            return
        TIME_TO_FIRST_TOKEN_SECONDS.labels(model).observe(entry.ttft_ms / 1000)
        ANSWER_SECONDS.labels(model).observe(entry.duration_ms / 1000)
        generating_ms = entry.duration_ms - entry.ttft_ms
        if entry.stream and entry.outcome is Outcome.COMPLETE and entry.output_tokens and generating_ms > 0:
            TOKENS_PER_SECOND.labels(model).observe(entry.output_tokens * 1000 / generating_ms)


class DeliveredTokens:
    """Sets the counter of delivered tokens before each exposition. `tenants_max` as in `LedgerMetrics`."""

    def __init__(self, read: Callable[[], Mapping[str, int]], tenants_max: int) -> None:
        self._read = read
        self._tenants = BoundedNames(tenants_max)
        self._counted: dict[str, int] = {}

    async def sample(self) -> None:
        """Counts what `read` returns beyond what was counted before. A sum that decreases counts as no progress."""
        for tenant, tokens in self._read().items():
            if (more := tokens - self._counted.get(tenant, 0)) > 0:
                DELIVERED_TOKENS.labels(self._tenants.label(tenant)).inc(more)
                self._counted[tenant] = tokens

"""Plain, frozen values that several packages share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scope(StrEnum):
    """A permission of a key. `runner` and `debug` are never granted by default."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    RUNNER = "runner"
    DEBUG = "debug"


class Period(StrEnum):
    """The period of a token budget, in UTC. `total` never resets."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class Priority(StrEnum):
    """The class of a key's requests. Batch requests wait while an interactive one waits for the same replica."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class UsageSource(StrEnum):
    """The origin of a token count: the backend's own number, counted frames, an estimate, or none."""

    EXACT = "exact"
    COUNTED = "counted"
    ESTIMATED = "estimated"
    NONE = "none"


class Outcome(StrEnum):
    """How a request ended, as its audit row states it."""

    COMPLETE = "complete"
    CUT = "cut"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    DENIED = "denied"
    LOST = "lost"


class Refusal(StrEnum):
    """What is wrong with a refused credential. The last three require that the secret or the signature matched.

    `OUTSIDE_WINDOW` and `WRONG_SIGNATURE` are refusals of a request that an Ollama installation signed.
    """

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    WRONG_SECRET = "wrong_secret"  # noqa: S105 (a reason, no secret)
    OUTSIDE_WINDOW = "outside_window"
    WRONG_SIGNATURE = "wrong_signature"
    REVOKED = "revoked"
    EXPIRED = "expired"
    TENANT_DISABLED = "tenant_disabled"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a key or tenant: requests per minute, tokens per minute, requests in flight."""

    rpm: int
    tpm: int
    concurrent: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """The most output tokens and bytes of a body that one request may have; the defaults are those of the settings."""

    output_tokens: int = 4096
    body_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Budgets:
    """Tokens (input plus output) per period in UTC; None means no budget."""

    day: int | None = None
    month: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. Names as in the OpenTelemetry GenAI conventions."""

    input_tokens: int = 0
    output_tokens: int = 0
    source: UsageSource = UsageSource.NONE


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified key, its tenant, and the policy of both.

    `key_id` is the account of the key: rotation changes the secret and its prefix, and retains the account with its
    limits, budgets and counters.
    The limits and models of the key include those that it inherits from the tenant. `models` are canonical names (see
    `gateway.request.model_name`). `weight` is the tenant's share of the slots, `priority` the key's class in the queue.
    """

    tenant_id: int
    tenant: str
    key_id: int
    key_prefix: str
    scopes: frozenset[Scope]
    models: frozenset[str]
    allow_all_models: bool
    tenant_limits: Limits
    key_limits: Limits
    tenant_budgets: Budgets
    key_budgets: Budgets
    log_prompts: bool
    expires_at: datetime | None
    sizes: Sizes = Sizes()
    weight: int = 1
    priority: Priority = Priority.INTERACTIVE

"""The ledger entry: one finished request, exactly as it becomes one row of `gateway.audit_log`.

An entry is made once, when the request is settled or denied, and travels unchanged through the event stream. Writing
it twice is harmless because (request_id, ts) is unique and both are part of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from gateway.errors import Code
from gateway.record.grant import Grant
from gateway.record.request import RequestRecord, record_fields, record_of
from gateway.values import NO_USAGE, Outcome, Usage, UsageSource


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended. `status` is the HTTP status that the caller received, `backend` the name of the backend.

    `code` is a plain text where Envoy reports it. Durations are milliseconds from the moment at which the meter opened
    the request; `ttft_ms` ends with the first byte of the body. `reason` is why a key was refused, for operators alone.
    `queued_ms` is the time in the queue before that moment, None when the request did not wait.
    """

    outcome: Outcome
    status: int
    code: Code | str | None = None
    backend: str | None = None
    usage: Usage = NO_USAGE
    ttft_ms: int | None = None
    duration_ms: int | None = None
    response_bytes: int = 0
    reason: str | None = None
    queued_ms: int | None = None


# The caller left before any backend received the request.
CLIENT_GONE = Ending(Outcome.CLIENT_GONE, status=499)


@dataclass(frozen=True)
class Entry(RequestRecord):
    """One audit row. Tokens are counts, `ts_ms` is milliseconds since the epoch, durations are milliseconds.

    A new field needs a default, so that events of the release before it can still be read, and a column of its name.
    `code` is one of `gateway.errors.Code`, or one that a later release has added. `reason` is why a key was refused.
    """

    ts_ms: int
    backend: str | None
    status: int
    code: str | None
    outcome: Outcome
    input_tokens: int
    output_tokens: int
    usage_source: UsageSource
    reserved_tokens: int
    ttft_ms: int | None
    duration_ms: int | None
    response_bytes: int
    reason: str | None = None
    queued_ms: int | None = None

    def to_json(self) -> str:
        """The event as it is stored in the stream.

        A lone surrogate, which a header may hold, becomes a question mark. Otherwise the event could not be read back,
        and its row would be missing.
        """
        text = _encode(vars(self))
        return text if text.isascii() else text.encode("utf-8", "replace").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Entry:
        """Reads an event back. Raises ValueError when it is not exactly one, types included."""
        return _ADAPTER.validate_json(text, strict=True)


_ADAPTER = TypeAdapter(Entry)
# Made once, because `json.dumps` makes an encoder for each call with separators.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def settled_entry(grant: Grant, ending: Ending) -> Entry:
    """The entry of an admitted request."""
    if ending.queued_ms is None and grant.queued_ms:
        ending = replace(ending, queued_ms=grant.queued_ms)
    return _entry(grant, grant.admitted_at_ms, ending, grant.input_estimate + grant.output_cap)


def denied_entry(record: RequestRecord, ts_ms: int, ending: Ending) -> Entry:
    """The entry of a request that was denied at `ts_ms`; nothing was reserved for it."""
    return _entry(record, ts_ms, ending, 0)


def _entry(record: RequestRecord, ts_ms: int, ending: Ending, reserved_tokens: int) -> Entry:
    usage = ending.usage
    values = record_fields(record)
    values["ts_ms"] = ts_ms
    values["backend"] = ending.backend
    values["status"] = ending.status
    values["code"] = ending.code
    values["outcome"] = ending.outcome
    values["input_tokens"] = usage.input_tokens
    values["output_tokens"] = usage.output_tokens
    values["usage_source"] = usage.source
    values["reserved_tokens"] = reserved_tokens
    values["ttft_ms"] = ending.ttft_ms
    values["duration_ms"] = ending.duration_ms
    values["response_bytes"] = ending.response_bytes
    values["reason"] = ending.reason
    values["queued_ms"] = ending.queued_ms
    return record_of(Entry, values)

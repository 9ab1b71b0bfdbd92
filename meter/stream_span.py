"""The span of one admitted request, from its grant and its ledger entry. Pure."""

from __future__ import annotations

from gateway.record.entry import Entry
from gateway.record.grant import Grant
from gateway.tracing import genai
from gateway.tracing.span import FinishedSpan, SpanKind, Value
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME

FIRST_TOKEN = "first_token"  # noqa: S105 (the name of an event)
_MS = 1_000_000


def stream_span(grant: Grant, entry: Entry, opened_ns: int) -> FinishedSpan:
    """The inference of the GenAI conventions, from the meter's first message to the end of the answer.

    It includes all attempts. The entry's milliseconds count from `opened_ns`, in nanoseconds since the epoch. The time
    in which the cause of a disconnect was unknown is not part of it.
    """
    operation = genai.operation(BY_NAME[grant.surface])
    attributes: dict[str, Value] = {
        genai.OPERATION_NAME: operation,
        genai.PROVIDER_NAME: genai.PROVIDER,
        genai.REQUEST_MODEL: grant.requested_model or grant.model,
        genai.RESPONSE_MODEL: grant.sent_model,
        genai.REQUEST_STREAM: grant.stream,
        genai.USAGE_INPUT_TOKENS: entry.input_tokens,
        genai.USAGE_OUTPUT_TOKENS: entry.output_tokens,
        "http.response.status_code": entry.status,
        "neuronetz.request_id": grant.request_id,
        "neuronetz.tenant": grant.tenant,
        "neuronetz.key_prefix": grant.key_prefix,
        "neuronetz.surface": grant.surface,
        "neuronetz.outcome": str(entry.outcome),
        "neuronetz.usage_source": str(entry.usage_source),
    }
    if grant.output_cap:
        attributes[genai.REQUEST_MAX_TOKENS] = grant.output_cap
    if entry.backend is not None:
        attributes["neuronetz.backend"] = entry.backend
    if entry.queued_ms is not None:
        attributes["neuronetz.queued_ms"] = entry.queued_ms
    events: tuple[tuple[str, int], ...] = ()
    if entry.ttft_ms is not None:
        events = ((FIRST_TOKEN, opened_ns + entry.ttft_ms * _MS),)
        if grant.stream:
            attributes[genai.RESPONSE_TIME_TO_FIRST_CHUNK] = entry.ttft_ms / 1000
    end_ns = opened_ns + (entry.duration_ms or 0) * _MS
    name = f"{operation} {grant.requested_model or grant.model}"
    return FinishedSpan(name, SpanKind.CLIENT, opened_ns, end_ns, attributes, error_of(entry), events)


def error_of(entry: Entry) -> str | None:
    """error.type of an admitted request: its error code, else its outcome or status; None for success."""
    if entry.code is not None:
        return entry.code
    if entry.outcome is not Outcome.COMPLETE:
        return str(entry.outcome)
    return str(entry.status) if entry.status >= 400 else None

"""The span of a check, and that of its wait in the queue, from the values of the decision. Pure."""

from __future__ import annotations

from authz.admit import Admitted, Denial
from authz.checked_request import CheckedRequest
from gateway.record.grant import Grant
from gateway.record.request import RequestRecord
from gateway.tracing import genai
from gateway.tracing.span import FinishedSpan, SpanKind, Value
from gateway.wire.surfaces import BY_NAME

_MS = 1_000_000


def check_span(
    checked: CheckedRequest, decision: Admitted | Denial | BaseException, start_ns: int, end_ns: int
) -> FinishedSpan:
    """The span of the check of `checked`, with a child for the wait if it waited.

    `decision` is an exception when the check ended without a decision, because the caller left or an error occurred.
    """
    attributes: dict[str, Value] = {"neuronetz.request_id": checked.request_id, "url.path": checked.path}
    error = None
    queued_ms = None
    if isinstance(decision, BaseException):
        error = type(decision).__name__
    elif isinstance(decision, Denial):
        error, queued_ms = str(decision.denied.code), decision.queued_ms
        attributes["http.response.status_code"] = decision.denied.status
        attributes |= _request_attributes(decision.record) if decision.record else {}
    elif decision.grant_json:
        grant, queued_ms = Grant.from_json(decision.grant_json), decision.queued_ms
        attributes |= _request_attributes(grant)
        attributes["neuronetz.input_estimate"] = grant.input_estimate
        if grant.output_cap:
            attributes[genai.REQUEST_MAX_TOKENS] = grant.output_cap
    else:
        attributes["neuronetz.stage"] = "head"
    wait = () if queued_ms is None else (_wait_span(queued_ms, end_ns),)
    return FinishedSpan("admission", SpanKind.SERVER, start_ns, end_ns, attributes, error, children=wait)


def _wait_span(queued_ms: int, end_ns: int) -> FinishedSpan:
    """The wait ends with the check, because nothing but arithmetic follows it."""
    attributes = {"neuronetz.queued_ms": queued_ms}
    return FinishedSpan("queue", SpanKind.INTERNAL, end_ns - queued_ms * _MS, end_ns, attributes)


def _request_attributes(record: RequestRecord) -> dict[str, Value]:
    known: dict[str, Value | None] = {
        "neuronetz.tenant": record.tenant,
        "neuronetz.key_prefix": record.key_prefix,
        "neuronetz.surface": record.surface,
        genai.REQUEST_MODEL: record.model,
    }
    if record.surface is not None:
        known[genai.OPERATION_NAME] = genai.operation(BY_NAME[record.surface])
        known[genai.PROVIDER_NAME] = genai.PROVIDER
        known[genai.REQUEST_STREAM] = record.stream
    return {name: value for name, value in known.items() if value is not None}

"""Envoy's ext_proc protobuf on one side, plain values on the other. Pure.

Protocol: envoy.service.ext_proc.v3 as Envoy 1.40 speaks it, request body BUFFERED, response body STREAMED. The messages
are upb's, from xds-protos; its `request_drain` has another number there than in 1.40 and is never set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.type.v3 import http_status_pb2

from gateway.errors import MESSAGE, STATUS, Code
from gateway.record.grant import METADATA_KEY, METADATA_NAMESPACE
from gateway.wire.dialects import error_body
from gateway.wire.names import ERROR_HEADER, MAX_RETRIES_HEADER, REQUEST_ID_HEADER, backend_of
from gateway.wire.surfaces import dialect_of
from meter.exchange import Exchange

_ATTRIBUTES = "envoy.filters.http.ext_proc"
_OVERWRITE = base_pb2.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD

# All that a backend receives besides the body, and headers that Envoy consumes itself.
_TO_BACKEND = frozenset(
    {"host", "content-type", "content-length", "transfer-encoding", "accept", REQUEST_ID_HEADER, MAX_RETRIES_HEADER}
)
# All that a caller receives of a backend's headers.
_TO_CALLER = frozenset({"content-type", "transfer-encoding", "date"})


def read_grant(message: ext_proc.ProcessingRequest) -> str | None:
    """The text of the grant that authz returned, None when the request was not admitted."""
    metadata = message.metadata_context.filter_metadata
    if METADATA_NAMESPACE not in metadata:
        return None
    fields = metadata[METADATA_NAMESPACE].fields
    return fields[METADATA_KEY].string_value if METADATA_KEY in fields else None


def respond(exchange: Exchange, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
    """Passes one message to the exchange and returns what Envoy is to do with it."""
    kind = message.WhichOneof("request") or ""
    match kind:
        case "response_body":
            body = message.response_body
            decision = exchange.response_body(body.body, body.end_of_stream)
            if isinstance(decision, Code):
                return immediate_error(decision, exchange.grant.path, exchange.grant.request_id)
            return _response_chunk(decision)
        case "request_headers":
            return _request_headers(read_headers(message.request_headers))
        case "request_body":
            rewritten = exchange.request_body(message.request_body.body)
            if isinstance(rewritten, Code):
                return immediate_error(rewritten, exchange.grant.path, exchange.grant.request_id)
            return _request_body(rewritten)
        case "response_headers":
            return _respond_to_response_headers(exchange, message)
        case _:
            return untouched(kind)


def _respond_to_response_headers(
    exchange: Exchange, message: ext_proc.ProcessingRequest
) -> ext_proc.ProcessingResponse:
    headers = read_headers(message.response_headers)
    status = int(headers.get(":status", "0"))
    if read_attribute(message, "response.code_details") != "via_upstream":
        exchange.local_reply(status, headers.get(ERROR_HEADER, Code.UNAVAILABLE))
        return untouched("response_headers")
    backend = backend_of(read_attribute(message, "xds.cluster_name"))
    content_type = headers.get("content-type", "")
    head = exchange.response_headers(
        status, content_type, backend, end_of_stream=message.response_headers.end_of_stream
    )
    if head.denied is not None:
        return immediate_error(head.denied, exchange.grant.path, exchange.grant.request_id)
    return _response_headers(headers, {":status": str(head.status), **head.headers})


def read_headers(headers: ext_proc.HttpHeaders) -> dict[str, str]:
    """Names in lower case; a value is `raw_value` since 1.31 and read as Latin-1, which never fails."""
    return {
        header.key: header.raw_value.decode("latin-1") if header.raw_value else header.value
        for header in headers.headers.headers
    }


def read_attribute(message: ext_proc.ProcessingRequest, name: str) -> str:
    """A text attribute that Envoy sent along, empty when it is not there."""
    fields = message.attributes[_ATTRIBUTES].fields if _ATTRIBUTES in message.attributes else {}
    return fields[name].string_value if name in fields else ""


def _request_headers(headers: Mapping[str, str]) -> ext_proc.ProcessingResponse:
    """Goes on, with nothing but what a backend needs to know."""
    return ext_proc.ProcessingResponse(
        request_headers=ext_proc.HeadersResponse(
            response=ext_proc.CommonResponse(header_mutation=_without(headers, _TO_BACKEND))
        )
    )


def _request_body(body: bytes) -> ext_proc.ProcessingResponse:
    """Goes on with another body in one piece of a known length: Ollama notices a disconnect only then."""
    mutation = ext_proc.HeaderMutation(
        set_headers=_options({"content-type": "application/json", "content-length": str(len(body))}),
        remove_headers=["transfer-encoding"],
    )
    return ext_proc.ProcessingResponse(
        request_body=ext_proc.BodyResponse(
            response=ext_proc.CommonResponse(header_mutation=mutation, body_mutation=ext_proc.BodyMutation(body=body))
        )
    )


def _response_headers(headers: Mapping[str, str], extra: Mapping[str, str]) -> ext_proc.ProcessingResponse:
    """Passes a backend's answer on with what a caller may know, plus our own `extra` headers.

    Its length is not promised: the meter may take a report out or put an error in.
    """
    mutation = _without(headers, _TO_CALLER)
    mutation.set_headers.extend(_options(extra))
    return ext_proc.ProcessingResponse(
        response_headers=ext_proc.HeadersResponse(response=ext_proc.CommonResponse(header_mutation=mutation))
    )


def untouched(kind: str) -> ext_proc.ProcessingResponse:
    """Goes on without a change; `kind` is the message's oneof name."""
    match kind:
        case "request_headers" | "response_headers":
            return ext_proc.ProcessingResponse(**{kind: ext_proc.HeadersResponse()})
        case "request_body" | "response_body":
            return ext_proc.ProcessingResponse(**{kind: ext_proc.BodyResponse()})
        case _:
            return ext_proc.ProcessingResponse(**{kind: ext_proc.TrailersResponse()})


def _response_chunk(body: bytes | None) -> ext_proc.ProcessingResponse:
    """Releases a chunk of the answer: unchanged (None), or as other bytes, perhaps none."""
    if body is None:
        return untouched("response_body")
    mutation = ext_proc.BodyMutation(body=body) if body else ext_proc.BodyMutation(clear_body=True)
    return ext_proc.ProcessingResponse(
        response_body=ext_proc.BodyResponse(response=ext_proc.CommonResponse(body_mutation=mutation))
    )


def immediate_error(code: Code, path: str, request_id: str) -> ext_proc.ProcessingResponse:
    """Answers in place of the backend. In mid-stream, where the 200 is gone already, Envoy cuts both sides instead."""
    body = error_body(dialect_of(path), code, MESSAGE[code], request_id)
    return ext_proc.ProcessingResponse(
        immediate_response=ext_proc.ImmediateResponse(
            status=http_status_pb2.HttpStatus(code=STATUS[code]),
            headers=ext_proc.HeaderMutation(
                set_headers=_options({"content-type": "application/json", ERROR_HEADER: str(code)})
            ),
            body=body,
            details=str(code),
        )
    )


def _without(headers: Iterable[str], keep: frozenset[str]) -> ext_proc.HeaderMutation:
    return ext_proc.HeaderMutation(
        remove_headers=[name for name in headers if name not in keep and not name.startswith(":")]
    )


def _options(headers: Mapping[str, str]) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=name, raw_value=value.encode("latin-1", "replace")),
            append_action=_OVERWRITE,
        )
        for name, value in headers.items()
    ]

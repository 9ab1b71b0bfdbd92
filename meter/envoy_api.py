"""Envoy's ext_proc protobuf on one side, the plain values of an Exchange on the other. Pure.

Protocol: envoy.service.ext_proc.v3 as Envoy 1.40 speaks it, request body BUFFERED, response body STREAMED, without the
headers of the request. The message classes come from xds-protos. Their `request_drain` has another field number than
Envoy 1.40 and is never set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.type.v3 import http_status_pb2
from google.protobuf.wrappers_pb2 import UInt64Value

from gateway.errors import Code, Denied
from gateway.record.grant import Grant
from gateway.rpc.methods import Message
from gateway.wire.dialects import error_body
from gateway.wire.names import (
    ATTEMPT_NUMBER_ATTRIBUTE,
    CLUSTER_ATTRIBUTE,
    CLUSTER_HEADER,
    ERROR_HEADER,
    HELD_WHOLE_HEADER,
    REQUEST_ID_HEADER,
    SERVER_BUSY,
    backend_of,
)
from gateway.wire.surfaces import dialect_of
from meter.exchange import Exchange

_OVERWRITE = base_pb2.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD

# Envoy files the attributes of a message under the name of its filter.
_ATTRIBUTES = "envoy.filters.http.ext_proc"
_SECOND_ATTEMPT = 2
_HOLD_BODY = processing_mode_pb2.ProcessingMode(response_body_mode=processing_mode_pb2.ProcessingMode.BUFFERED)

# Replies to headers depend on little but their names, and a client always sends the same. Names may have up to 32 KiB
# together, so few replies are retained. They are never changed.
_REPLIES_MAX = 64
# Headers that the gateway itself sets, with their values.
_OPTIONS_MAX = 256

# The tags of the messages around a request body, from the innermost one outwards. Each is a field of bytes, type 2.
_REQUEST_BODY_TAGS = tuple(
    bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
    for message, field in (
        (ext_proc.BodyMutation, "body"),
        (ext_proc.CommonResponse, "body_mutation"),
        (ext_proc.BodyResponse, "response"),
        (ext_proc.ProcessingResponse, "request_body"),
    )
)

# The only headers of a backend's answer that a caller receives.
_TO_CALLER = frozenset({"content-type", "transfer-encoding", "date"})


def respond(exchange: Exchange, message: ext_proc.ProcessingRequest) -> Message:
    """Passes one message to the exchange and returns its decision, a ProcessingResponse for Envoy or one encoded."""
    kind = message.WhichOneof("request") or ""
    match kind:
        case "response_body":
            chunk = message.response_body
            body = exchange.response_body(chunk.body, chunk.end_of_stream)
            if body is None or isinstance(body, bytes):
                return _response_chunk(body)
            if isinstance(body, Denied) and exchange.holds_answer:
                return ext_proc.ProcessingResponse(response_body=ext_proc.BodyResponse(response=_error(body, exchange)))
            return _denial(body, exchange)
        case "request_body":
            rewritten = exchange.request_body(message.request_body.body)
            return _denial(rewritten, exchange) if isinstance(rewritten, Code) else _request_body(rewritten)
        case "response_headers":
            return _respond_to_response_headers(exchange, message)
        case _:
            return untouched(kind)


@cache
def untouched(kind: str) -> ext_proc.ProcessingResponse:
    """Continues without a change; `kind` is the message's oneof name."""
    match kind:
        case "request_headers" | "response_headers":
            return ext_proc.ProcessingResponse(**{kind: ext_proc.HeadersResponse()})
        case "request_body" | "response_body":
            return ext_proc.ProcessingResponse(**{kind: ext_proc.BodyResponse()})
        case _:
            return ext_proc.ProcessingResponse(**{kind: ext_proc.TrailersResponse()})


def deny_unopened(code: Code, grant: Grant) -> ext_proc.ProcessingResponse:
    """Answers an admitted request for which no exchange was opened."""
    return _immediate_error(Denied(code), grant.path, grant.request_id)


def is_of_a_backend(message: ext_proc.ProcessingRequest) -> bool:
    """Whether the message is the head of a backend's answer."""
    return any(header.key == CLUSTER_HEADER for header in message.response_headers.headers.headers)


def attempt_of(message: ext_proc.ProcessingRequest) -> tuple[str, str, int]:
    """The request id, the cluster and the number of a further attempt. An Envoy of another release sends no number."""
    headers = _read_headers(message.request_headers)
    number = _length(_read_attribute(message, ATTEMPT_NUMBER_ATTRIBUTE)) or _SECOND_ATTEMPT
    return headers.get(REQUEST_ID_HEADER, ""), _read_attribute(message, CLUSTER_ATTRIBUTE), number


def deny_attempt(denied: Denied, path: str, request_id: str) -> ext_proc.ProcessingResponse:
    """Answers in place of every backend. The router does not try again."""
    return _immediate_error(denied, path, request_id)


def _respond_to_response_headers(
    exchange: Exchange, message: ext_proc.ProcessingRequest
) -> ext_proc.ProcessingResponse:
    headers = _read_headers(message.response_headers)
    status = int(headers.get(":status", "0"))
    if status == SERVER_BUSY:
        status = 503
    cluster = headers.get(CLUSTER_HEADER)
    if cluster is None:
        exchange.local_reply(status, headers.get(ERROR_HEADER, Code.UNAVAILABLE))
        return untouched("response_headers")
    own = exchange.response_headers(
        status,
        headers.get("content-type", ""),
        backend_of(cluster),
        end_of_stream=message.response_headers.end_of_stream,
        comes_whole=HELD_WHOLE_HEADER in headers,
        body_bytes=_length(headers.get("content-length", "")),
        replica=cluster,
    )
    if isinstance(own, Code) and message.response_headers.end_of_stream:
        error = _error(Denied(own), exchange, set(headers) - _TO_CALLER)
        error.status = ext_proc.CommonResponse.CONTINUE_AND_REPLACE
        return ext_proc.ProcessingResponse(response_headers=ext_proc.HeadersResponse(response=error))
    if isinstance(own, Code):
        return _denial(own, exchange)
    return _response_headers(tuple(headers), tuple(own.items()), exchange.holds_answer)


def _read_headers(headers: ext_proc.HttpHeaders) -> dict[str, str]:
    """Header names in lower case. Envoy fills `raw_value` since 1.31; it is read as Latin-1, which never fails."""
    return {
        header.key: raw.decode("latin-1") if (raw := header.raw_value) else header.value
        for header in headers.headers.headers
    }


def _read_attribute(message: ext_proc.ProcessingRequest, name: str) -> str:
    """A text attribute of the message, empty when Envoy did not send it."""
    fields = message.attributes[_ATTRIBUTES].fields if _ATTRIBUTES in message.attributes else {}
    return fields[name].string_value if name in fields else ""


def _length(digits: str) -> int:
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0


def _request_body(body: bytes) -> bytes:
    """Continues with `body`, whose length Envoy's buffer filter sets.

    The reply is encoded by one join, because the body may have many MiB and a message would copy it several times.
    https://protobuf.dev/programming-guides/encoding/
    """
    return b"".join((*_around_request_body(len(body)), body))


@lru_cache(_OPTIONS_MAX)
def _around_request_body(size: int) -> tuple[bytes, ...]:
    """The tags and lengths in front of a request body of `size` bytes, from the outermost message inwards."""
    fronts: list[bytes] = []
    for tag in _REQUEST_BODY_TAGS:
        # The encoding of a number after the tag of its field.
        length = UInt64Value(value=size).SerializeToString()[1:]
        fronts.append(tag + length)
        size += len(fronts[-1])
    return tuple(reversed(fronts))


@lru_cache(_REPLIES_MAX)
def _response_headers(
    names: tuple[str, ...], own: tuple[tuple[str, str], ...], hold_body: bool
) -> ext_proc.ProcessingResponse:
    """Passes a backend's answer with the headers that a caller may see and the gateway's `own`, as pairs.

    The content-length is not among them: the meter may take a usage report out or put an error in. With `hold_body`
    Envoy sends them only after the meter's reply to the whole body, which can still be an error.
    """
    mutation = ext_proc.HeaderMutation(
        remove_headers=[name for name in names if name not in _TO_CALLER and not name.startswith(":")]
    )
    mutation.set_headers.extend(_options(dict(own)))
    return ext_proc.ProcessingResponse(
        response_headers=ext_proc.HeadersResponse(response=ext_proc.CommonResponse(header_mutation=mutation)),
        mode_override=_HOLD_BODY if hold_body else None,
    )


def _response_chunk(body: bytes | None) -> ext_proc.ProcessingResponse:
    """Releases a chunk of the answer: unchanged (None), or replaced by `body`, which may be empty."""
    if body is None:
        return untouched("response_body")
    reply = ext_proc.ProcessingResponse()
    mutation = reply.response_body.response.body_mutation
    if body:
        mutation.body = body
    else:
        mutation.clear_body = True
    return reply


def _error(denied: Denied, exchange: Exchange, removed: Iterable[str] = ()) -> ext_proc.CommonResponse:
    """Turns a backend's answer, of which nothing has gone out, into an error without the headers in `removed`.

    An immediate response would skip the other filters, and with them the headers of the request id and of the limits.
    """
    grant = exchange.grant
    body = error_body(dialect_of(grant.path), denied.code, denied.message, grant.request_id)
    own = {":status": str(denied.status), "content-type": "application/json", ERROR_HEADER: str(denied.code)}
    mutation = ext_proc.HeaderMutation(
        set_headers=_options(own), remove_headers=[name for name in removed if not name.startswith(":")]
    )
    return ext_proc.CommonResponse(header_mutation=mutation, body_mutation=ext_proc.BodyMutation(body=body))


def _denial(reason: Code | Denied, exchange: Exchange) -> ext_proc.ProcessingResponse:
    denied = Denied(reason) if isinstance(reason, Code) else reason
    return _immediate_error(denied, exchange.grant.path, exchange.grant.request_id)


def _immediate_error(denied: Denied, path: str, request_id: str) -> ext_proc.ProcessingResponse:
    """Answers in place of the backend. In mid-stream, after a 200 has gone out, Envoy cuts both sides instead."""
    code = denied.code
    body = error_body(dialect_of(path), code, denied.message, request_id)
    headers = {"content-type": "application/json", ERROR_HEADER: str(code)}
    if denied.retry_after_s is not None:
        headers["retry-after"] = str(denied.retry_after_s)
    return ext_proc.ProcessingResponse(
        immediate_response=ext_proc.ImmediateResponse(
            status=http_status_pb2.HttpStatus(code=denied.status),
            headers=ext_proc.HeaderMutation(set_headers=_options(headers)),
            body=body,
            details=str(code),
        )
    )


def _options(headers: Mapping[str, str]) -> list[base_pb2.HeaderValueOption]:
    return [_option(name, value) for name, value in headers.items()]


@lru_cache(_OPTIONS_MAX)
def _option(name: str, value: str) -> base_pb2.HeaderValueOption:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, raw_value=value.encode("latin-1", "replace")), append_action=_OVERWRITE
    )

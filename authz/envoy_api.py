"""Envoy's ext_authz protobuf on one side, plain values on the other. Pure.

Protocol: envoy.service.auth.v3 (CheckRequest, CheckResponse), as Envoy 1.40 speaks it. The messages are the upb ones of
xds-protos, because every request needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from envoy.type.v3 import http_status_pb2
from google.rpc import code_pb2, status_pb2

from authz.admit import Admitted, Denial
from authz.checked_request import Body, CheckedRequest
from authz.credential import find_credential
from gateway.record.caller import CALLER_KEY
from gateway.record.grant import METADATA_KEY, PATH_KEY, TRIES_KEY
from gateway.request.client_address import USER_AGENT_CHARACTERS_MAX, client_ip
from gateway.wire.dialects import error_body
from gateway.wire.media_types import JSON
from gateway.wire.names import ERROR_HEADER, MAX_RETRIES_HEADER, REQUEST_ID_HEADER
from gateway.wire.surfaces import plain_path

# The only request headers that a backend receives. Envoy consumes some of them itself, and sets the content-length. It
# matches no route without x-forwarded-proto, so the clusters of the backends remove that.
_TO_BACKEND = frozenset(
    {"host", "content-type", "content-length", "accept", "x-forwarded-proto", REQUEST_ID_HEADER, MAX_RETRIES_HEADER}
)
# A client always sends the same headers. Names may have up to 32 KiB together, so a response to many is not retained.
_RETAINED_NAMES_CHARACTERS_MAX = 2048
# envoy/listener.yaml marks the check of a long request before its body is read.
STAGE, HEAD = "stage", "head"
# Stands for a text in an encoded part of a response. No tag and no length has this byte, and no name of a header.
_FILLER = "\0"
_APPEND = base_pb2.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def read_check(request: external_auth_pb2.CheckRequest, trusted: Sequence[IPv4Network | IPv6Network]) -> CheckedRequest:
    """CheckRequest -> CheckedRequest. Envoy sends header names in lower case."""
    attributes = request.attributes
    http = attributes.request.http
    headers = http.headers
    received_at = attributes.request.time
    peer = attributes.source.address.socket_address.address
    return CheckedRequest(
        request_id=headers.get(REQUEST_ID_HEADER, ""),
        method=http.method,
        path=plain_path(http.path),
        credential=find_credential(
            headers.get("authorization"),
            headers.get("x-api-key"),
            method=http.method,
            target=http.path,
            # Not the time of this check, which follows the whole body.
            received_at_s=received_at.seconds + received_at.nanos / 1e9,
        ),
        client_ip=client_ip(peer, headers.get("x-forwarded-for"), trusted),
        user_agent=headers.get("user-agent", "")[:USER_AGENT_CHARACTERS_MAX],
        content_encoding=headers.get("content-encoding", ""),
        body=Body(http.raw_body),
        is_head=attributes.context_extensions.get(STAGE) == HEAD,
        announced_bytes=_length(headers.get("content-length", "")),
        header_names=frozenset(headers),
    )


def admitted(decision: Admitted, header_names: frozenset[str]) -> bytes:
    """The response to an admitted request, which has the headers `header_names`.

    Its dynamic metadata directs the router and carries the grant. The response is joined from encoded parts, which
    Protobuf merges into one message. https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    if not decision.grant_json:
        head = external_auth_pb2.CheckResponse(status=status_pb2.Status(code=code_pb2.OK))
        head.dynamic_metadata.fields[CALLER_KEY].string_value = decision.caller_json
        return _encoded(head)
    is_retained = sum(map(len, header_names)) <= _RETAINED_NAMES_CHARACTERS_MAX
    routing = _routing if is_retained else _routing.__wrapped__
    parts = [routing(decision.path, decision.clusters, decision.busy_retries, decision.accept, header_names)]
    for name, value in decision.headers.items():
        start, end = _around_header(name, len(value))
        parts += start, value.encode("ascii"), end
    start, end = _around_grant(len(decision.grant_json))
    parts += start, decision.grant_json.encode("ascii"), end
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _around_header(name: str, size: int) -> tuple[bytes, bytes]:
    """What precedes and follows the value of a header of the answer, of `size` bytes, in an encoded response."""
    added = external_auth_pb2.OkHttpResponse(response_headers_to_add=_options({name: _FILLER * size}))
    return _around_filler(external_auth_pb2.CheckResponse(ok_response=added))


@lru_cache(maxsize=1024)
def _around_grant(size: int) -> tuple[bytes, bytes]:
    """What precedes and follows a grant of `size` bytes in an encoded response."""
    response = external_auth_pb2.CheckResponse()
    response.dynamic_metadata.fields[METADATA_KEY].string_value = _FILLER * size
    return _around_filler(response)


def _around_filler(response: external_auth_pb2.CheckResponse) -> tuple[bytes, bytes]:
    encoded = _encoded(response)
    start = encoded.index(_FILLER.encode())
    return encoded[:start], encoded[encoded.rindex(_FILLER.encode()) + 1 :]


@lru_cache(maxsize=1024)
def _routing(
    path: str, clusters: tuple[str, ...], busy_retries: int | None, accept: str, header_names: frozenset[str]
) -> bytes:
    """The part of a response that requests have in common, encoded, because parsing it is faster than building it.

    Its metadata has the router try the clusters in order. The router stays on the last group, which is the first
    cluster for the retries at a busy server. The hold filter ends all others after as many tries as `clusters`.
    A backend receives the headers that it needs and no other; `accept` is the media type of its answer, which the hold
    filter reads.
    """
    upstream = {
        ":path": path,
        MAX_RETRIES_HEADER: str(len(clusters) - 1 + (busy_retries or 0)),
        "accept": accept,
        "content-type": JSON,
    }
    response = external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=code_pb2.OK),
        ok_response=external_auth_pb2.OkHttpResponse(
            headers=_options(upstream),
            headers_to_remove=sorted(name for name in header_names - _TO_BACKEND if not name.startswith(":")),
        ),
    )
    groups = [
        {"name": f"{place}", "clusters": [{"cluster_name": cluster, "weight": 1}]}
        for place, cluster in enumerate((*clusters, *(clusters[:1] if busy_retries and len(clusters) > 1 else ())))
    ]
    tries = {TRIES_KEY: str(len(clusters))} if busy_retries is not None else {}
    response.dynamic_metadata.update({"priority_groups": groups, PATH_KEY: path, **tries})
    return _encoded(response)


def _length(digits: str) -> int:
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0


def denied(checked: CheckedRequest, decision: Denial) -> bytes:
    """The response to a denied request, in the caller's dialect."""
    denied, headers = decision.denied, decision.headers
    response = external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=code_pb2.PERMISSION_DENIED),
        denied_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=denied.status),
            headers=_options({"content-type": "application/json", ERROR_HEADER: str(denied.code), **headers}),
            body=error_body(
                checked.dialect, denied.code, denied.message, checked.request_id, status=denied.status
            ).decode(),
        ),
    )
    return _encoded(response)


def _options(headers: Mapping[str, str]) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=_APPEND)
        for name, value in headers.items()
    ]


def _encoded(response: external_auth_pb2.CheckResponse) -> bytes:
    encoded: bytes = response.SerializeToString()
    return encoded

"""Envoy's access log records on one side, plain values on the other. Pure.

Protocol: envoy.data.accesslog.v3, as Envoy 1.40 writes it. The filter in envoy/listener.yaml selects the records that
are read here: answers that broke off, and denials that Envoy made before authz decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network

from envoy.data.accesslog.v3 import accesslog_pb2

from gateway.errors import local_code
from gateway.record.caller import CALLER_KEY, Caller
from gateway.record.entry import Ending, Entry, denied_entry
from gateway.record.grant import METADATA_NAMESPACE
from gateway.record.request import RequestRecord
from gateway.request.client_address import USER_AGENT_CHARACTERS_MAX, client_ip
from gateway.values import Outcome
from gateway.wire.surfaces import BY_PATH, plain_path

# The prefixes of Envoy's response code details when the backend, or the caller, disconnected in mid-answer.
UPSTREAM_RESET = "upstream_reset_after_response_started"
DOWNSTREAM_DISCONNECT = "downstream_remote_disconnect"


@dataclass(frozen=True, slots=True)
class DownstreamClosed:
    """A request whose caller disconnected before any answer."""

    request_id: str


@dataclass(frozen=True, slots=True)
class StreamReset:
    """An answer that broke off, and whether the backend or the caller ended it."""

    request_id: str
    by_upstream: bool


def read(
    record: accesslog_pb2.HTTPAccessLogEntry, trusted: Sequence[IPv4Network | IPv6Network]
) -> DownstreamClosed | StreamReset | Entry | None:
    """Reads a record as a caller that disconnected, an answer that broke off, or the entry of a denial by Envoy.

    None for a request that does not reach a model. Raises ValueError for a malformed record.
    """
    request, details = record.request, record.response.response_code_details
    status = record.response.response_code.value
    if not request.request_id:
        return None
    if not status:
        return DownstreamClosed(request.request_id)
    if details.startswith((UPSTREAM_RESET, DOWNSTREAM_DISCONNECT)):
        return StreamReset(request.request_id, details.startswith(UPSTREAM_RESET))
    surface = BY_PATH.get(plain_path(request.path))
    if surface is None:
        return None
    common = record.common_properties
    peer = common.downstream_direct_remote_address.socket_address.address
    denied = RequestRecord(
        request_id=request.request_id,
        **asdict(_caller(record)),
        client_ip=client_ip(peer, request.forwarded_for or None, trusted),
        user_agent=request.user_agent[:USER_AGENT_CHARACTERS_MAX],
        method="POST",
        path=surface.path,
        surface=surface.name,
        model=None,
        stream=False,
        request_bytes=request.request_body_bytes,
    )
    ending = Ending(
        Outcome.DENIED,
        status,
        local_code(status),
        duration_ms=common.duration.ToMilliseconds(),
        response_bytes=record.response.response_body_bytes,
    )
    return denied_entry(denied, common.start_time.ToMilliseconds(), ending)


def _caller(record: accesslog_pb2.HTTPAccessLogEntry) -> Caller:
    """The caller of a request whose body was too large or did not arrive, if authz accepted its head.

    A request that authz did not answer may have been admitted, and only an entry without a tenant preserves its hold.
    """
    fields = record.common_properties.metadata.filter_metadata[METADATA_NAMESPACE].fields
    if record.response.response_code.value not in (408, 413) or CALLER_KEY not in fields:
        return Caller()
    return Caller.from_json(fields[CALLER_KEY].string_value)

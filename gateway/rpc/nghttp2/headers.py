"""The headers of gRPC requests, and those of responses and their trailers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from gateway.rpc.methods import Metadata, RpcError, Status

Header = tuple[bytes, bytes]

RESPONSE: list[Header] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK_TRAILERS: list[Header] = [(b"grpc-status", b"0")]
# gRPC: a request of another content type is answered as HTTP does it.
UNSUPPORTED_MEDIA_TYPE: list[Header] = [(b":status", b"415")]

# Messages of another format than protobuf, and those of gRPC-Web, have other types.
_CONTENT_TYPE = re.compile(rb"application/grpc(\+proto)?( *;.*)?")
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Printable ASCII except the percent sign is sent as it is.
_SAFE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class NotGrpc(Exception):
    """The request is not one of gRPC."""


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The method's path, the time that the caller grants the call (s, None without a limit), and all headers."""

    path: str
    timeout_s: float | None
    metadata: Metadata


def read_request(headers: Iterable[Header]) -> RequestHeaders:
    """Reads the headers that a call needs. Raises NotGrpc, or RpcError for a malformed `grpc-timeout`."""
    fields = dict(headers)
    if fields.get(b":method") != b"POST" or not _CONTENT_TYPE.fullmatch(fields.get(b"content-type", b"")):
        raise NotGrpc
    timeout = fields.get(b"grpc-timeout")
    path = fields[b":path"].decode("ascii", "replace")
    return RequestHeaders(path, None if timeout is None else _seconds(timeout), fields)


def trailers(status: Status, message: str) -> list[Header]:
    """The trailers that end a call."""
    encoded = quote(message, safe=_SAFE).encode()
    return [(b"grpc-status", b"%d" % status), (b"grpc-message", encoded)]


def _seconds(timeout: bytes) -> float:
    if not (match := _TIMEOUT.fullmatch(timeout)):
        raise RpcError(Status.INTERNAL, "malformed grpc-timeout")
    return int(match[1]) * _UNIT_S[match[2]]

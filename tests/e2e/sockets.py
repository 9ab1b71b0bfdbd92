"""HTTP as no client would send it: bytes on a socket, and HTTP/2 without its rules."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse, RemoteDisconnected
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """`status` is None when the connection or the stream was ended without an answer. Header names are lower case."""

    status: int | None
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """What `X-Gateway-Error` says."""
        return self.headers.get("x-gateway-error")

    @property
    def request_id(self) -> str:
        """What `X-Request-ID` says."""
        return self.headers.get("x-request-id", "")


NOTHING = Answer(None, {}, b"")


def connected(url: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection from the address `source` to the host and port of `url`."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT_S, (source, 0))


def read_answer(connection: socket.socket, method: str = "POST") -> Answer:
    """The next final answer; interim ones are skipped. Nothing may follow it."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except (RemoteDisconnected, ConnectionError):
        return NOTHING
    finally:
        response.close()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def send(url: str, data: bytes, method: str = "POST") -> Answer:
    """Sends the bytes on a connection of their own and reads the answer."""
    with connected(url) as connection:
        try:
            connection.sendall(data)
        except ConnectionError:
            return NOTHING
        return read_answer(connection, method)


def send_h2(
    url: str, headers: Sequence[tuple[str, str]], body: bytes, trailers: Sequence[tuple[str, str]] = ()
) -> Answer:
    """One HTTP/2 request with exactly these headers, pseudo-headers among them, by prior knowledge."""
    lax = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
    )
    protocol = h2.connection.H2Connection(lax)
    with connected(url) as connection:
        protocol.initiate_connection()
        protocol.send_headers(1, list(headers), end_stream=not body and not trailers)
        if body:
            protocol.send_data(1, body, end_stream=not trailers)
        if trailers:
            protocol.send_headers(1, list(trailers), end_stream=True)
        try:
            connection.sendall(protocol.data_to_send())
            return _read_h2(connection, protocol)
        except ConnectionError:
            return NOTHING


def _read_h2(connection: socket.socket, protocol: h2.connection.H2Connection) -> Answer:
    status, headers, body = None, dict[str, str](), b""
    while data := connection.recv(65536):
        for event in protocol.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    headers = {_text(name): _text(value) for name, value in event.headers}
                    status = int(headers[":status"])
                case h2.events.DataReceived():
                    body += event.data
                case h2.events.StreamEnded():
                    return Answer(status, headers, body)
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    return NOTHING
        connection.sendall(protocol.data_to_send())
    return NOTHING


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()

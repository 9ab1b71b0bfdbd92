"""HTTP that no proper client sends: raw bytes on a socket, a slow body, and HTTP/2 that breaks the protocol."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse, RemoteDisconnected
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

TIMEOUT_S = 30.0
# At one byte a second, twice the minute that the gateway allows for a body.
SLOW_BODY_BYTES = 120


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. `status` is None if the connection or stream ended without one. Header names are lower case."""

    status: int | None
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The value of `X-Gateway-Error`."""
        return self.headers.get("x-gateway-error")

    @property
    def request_id(self) -> str:
        """The value of `X-Request-ID`, empty if there is none."""
        return self.headers.get("x-request-id", "")


NO_ANSWER = Answer(None, {}, b"")


def connect(url: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection from the address `source` to the host and port of `url`."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT_S, (source, 0))


def read_answer(connection: socket.socket, method: str = "POST") -> Answer:
    """Reads the next final answer and skips interim (1xx) ones. Nothing may follow it on the connection."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except (RemoteDisconnected, ConnectionError):
        return NO_ANSWER
    finally:
        response.close()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def send(url: str, data: bytes, method: str = "POST") -> Answer:
    """Sends the bytes on a new connection and reads the answer."""
    with connect(url) as connection:
        try:
            connection.sendall(data)
        except ConnectionError:
            return NO_ANSWER
        return read_answer(connection, method)


def send_h2(
    url: str, headers: Sequence[tuple[str, str]], body: bytes, trailers: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Sends one HTTP/2 request by prior knowledge, with exactly these headers, which include the pseudo-headers."""
    lax = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
    )
    protocol = h2.connection.H2Connection(lax)
    with connect(url) as connection:
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
            return NO_ANSWER


def send_slow_body(url: str, key: str) -> Answer:
    """Sends one byte of a body per second until an answer arrives or SLOW_BODY_BYTES bytes are sent."""
    head = f"POST /v1/messages HTTP/1.1\r\nHost: gateway.example\r\nx-api-key: {key}\r\n"
    with connect(url) as connection:
        connection.sendall(f"{head}Content-Length: {SLOW_BODY_BYTES}\r\n\r\n".encode())
        for _ in range(SLOW_BODY_BYTES):
            connection.sendall(b" ")
            readable, _, _ = select.select([connection], [], [], 1.0)
            if readable:
                break
        return read_answer(connection)


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
                    return NO_ANSWER
        connection.sendall(protocol.data_to_send())
    return NO_ANSWER


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()

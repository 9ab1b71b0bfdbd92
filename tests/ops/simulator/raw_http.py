"""An HTTP/1.1 client over a plain socket, which shows chunks, resets and headers exactly as received."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.polling import eventually_async

DEADLINE_S = 5


@dataclass
class Reply:
    """A response as received.

    `headers`: by lower-case name, the last of equal ones; `header_lines` has all.
    `chunks`: None when the response had a Content-Length. `truncated`: the body did not end regularly. `reset`: a RST
    ended it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes] | None
    truncated: bool
    reset: bool = False
    header_lines: tuple[tuple[str, str], ...] = ()

    def json(self) -> Any:
        return json.loads(self.body)


async def call(url: str, path: str, body: Any = None, *, method: str = "", headers: str = "") -> Reply:
    """Sends one request on a new connection. A `body` that is not bytes is sent as JSON.

    Without any byte of a response it raises ConnectionResetError after a RST and EOFError after a FIN.
    """
    return await exchange(url, _request(path, body, method, headers))


async def disconnect_when(condition: Callable[[], bool], url: str, path: str, body: Any) -> None:
    """Sends a request and closes the connection, without reading anything, as soon as the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        _reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(_request(path, body, "", ""))
        await eventually_async(condition, poll_s=0.005)
        writer.close()


async def exchange(url: str, request: bytes) -> Reply:
    """Sends the bytes and reads until the connection ends."""
    received, reset = b"", False
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        try:
            writer.write(request)
            while data := await reader.read(65536):
                received += data
        except ConnectionResetError:
            if not received:
                raise
            reset = True
        finally:
            writer.close()
    return parse(received, reset=reset)


def _request(path: str, body: Any, method: str, headers: str) -> bytes:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    method = method or ("GET" if body is None else "POST")
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def parse(received: bytes, *, reset: bool = False) -> Reply:
    """The response in the bytes of a connection. Raises EOFError if there is none."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head:
        raise EOFError
    status_line, *lines = head.decode().split("\r\n")
    fields = tuple((name, value.strip()) for name, value in (line.split(":", 1) for line in lines))
    headers = {name.lower(): value for name, value in fields}
    status = int(status_line.split()[1])
    if headers.get("transfer-encoding") != "chunked":
        return Reply(status, headers, rest, None, len(rest) < int(headers.get("content-length", 0)), reset, fields)
    chunks: list[bytes] = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return Reply(status, headers, b"".join(chunks), chunks, False, reset, fields)
        chunks.append(rest[:length])
        rest = rest[length + 2 :]
    return Reply(status, headers, b"".join(chunks), chunks, True, reset, fields)

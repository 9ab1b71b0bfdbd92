"""The bytes of HTTP/1.1 that the generator and the upstream exchange."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEAD_END = b"\r\n\r\n"
CHUNKED_END = b"0\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")

STAMP_MASK = 0xFFFF_FFFF
# The content of a streamed chunk is its time of creation. The text survives each translation between dialects.
STAMP = re.compile(rb'"content": ?"([0-9a-f]{8})"')


def end_of(message: bytes | bytearray) -> int | None:
    """The length of a request or response from its header: 0 while the header is incomplete, None if it is chunked."""
    head_end = message.find(HEAD_END)
    if head_end < 0:
        return 0
    if length := _CONTENT_LENGTH.search(message, 0, head_end):
        return head_end + len(HEAD_END) + int(length[1])
    return None if b"hunked" in message[:head_end] else head_end + len(HEAD_END)


def is_complete(message: bytes | bytearray, end: int | None) -> bool:
    """Whether `message` is whole. `end` is what `end_of` returned for it."""
    return message.endswith(CHUNKED_END) if end is None else 0 < end <= len(message)


def request(path: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)

"""Generates requests: valid ones of every surface, and mutations of them. Pure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.wire.surfaces import BY_NAME
from tests.e2e.surface_cases import EMBEDDING_CASES, GENERATION_CASES

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**31, 2**63 - 1, 2**63, -(2**64), 10**40, 0.5, -0.0, 1e308, "", "x", "0", "null",
    "é", "\u0000", "\ud800", "\u202e", "a" * 5000, "data:image/png;base64,AAAA", [], {}, [[]], [None], {"": None},
    {"type": "text"}, {"role": "user", "content": "Hi"}, [[[[[[[[1]]]]]]]],
)  # fmt: skip
_KEYS = (
    "model", "Model", "mODEL", "stream", "\u017ftream", "stream_options", "options", "OPTIONS", "keep_alive",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "num_ctx", "format", "think", "tools",
    "images", "_debug_render_only", "messages", "prompt", "input", "suffix", "name", "n", "", "\u0000", "__proto__",
)  # fmt: skip
_MODELS = (
    "llama3.2", "LLAMA3.2:Latest", "llama3.2:latest ", "library/llama3.2", "llama3.2:cloud", "gpt-oss:20b-cloud",
    "../x", "no-such-model", "registry.ollama.ai/library/llama3.2", "hf.co/bartowski/smollm2:q4_k_m",
    "llama3.2@sha256:0", "",
)  # fmt: skip
_TARGETS = (
    b"/api/chat/", b"//api/chat", b"/api/../api/generate", b"/api/%63hat", b"/api%2fchat", b"/api/pull", b"/api/create",
    b"/v1/models/llama3.2%3alatest", b"/v1/models/", b"/v1/models", b"/api/tags", b"/api/ps", b"/api/show", b"/healthz",
    b"/api/version", b"/v1/files", b"/", b"*", b"/api/chat?a=b", b"/api/chat#a", b"http://x/api/chat", b"/playground",
    b"/api/embed\x00", b"/v1/messages/count_tokens", b"/readyz", b"/" + b"a" * 9000, b"/api/blobs/sha256:0",
)  # fmt: skip
_METHODS = (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"CONNECT", b"FOO", b"post", b"")
_LINES = (
    b"X-Request-ID: mine", b"X-Nz-Peer: 203.0.113.1", b"X-Envoy-Max-Retries: 9", b"X_Under: a", b"Expect: 100-continue",
    b"Content-Encoding: gzip", b"Content-Encoding: identity", b"Content-Type: text/plain", b"Cookie: a=b",
    b"TE: trailers", b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked", b"Content-Length: 3",
    b"Content-Length: 99999999",
    b"X-Forwarded-For: 203.0.113.1, x", b"Authorization: Bearer nz_x", b"Authorization: Basic eA==", b"x-api-key: nz_x",
    b"Origin: https://e.example", b"Connection: close", b"Connection: authorization", b"Range: bytes=0-1",
    b"X-Fold: a\r\n b", b"X-Nul: \x00", b"no colon", b"X-Long: " + b"a" * 40_000,
    b"User-Agent: \xff\xfe\xc3", b"Accept: */*", b"Host: b",
)  # fmt: skip


@dataclass(frozen=True)
class RawRequest:
    """The bytes of one request and how they are sent.

    `pieces` are written one after the other. With `well_framed`, the end of the answer is recognisable and another
    request may follow on the connection. The client disconnects after `read_bytes_max` bytes of the answer; None means
    that it reads the whole answer.
    """

    pieces: tuple[bytes, ...]
    method: bytes
    well_framed: bool
    read_bytes_max: int | None = None


class RequestGenerator:
    """A sequence of requests, determined by the seed and the keys."""

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        self._keys = keys

    def next_request(self) -> RawRequest:
        """The next request. Two in five are entirely valid."""
        rng = self._random
        target, document = self._valid()
        body, method, lines, valid = b"", b"POST", [self._authorization()], rng.random() < 0.4
        if not valid and rng.random() < 0.6:
            document = self._mutated(document)
        body = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if not valid and rng.random() < 0.2:
            body = self._corrupted(body)
        if not valid and rng.random() < 0.15:
            target = rng.choice(_TARGETS)
        if not valid and rng.random() < 0.1:
            method = rng.choice(_METHODS)
        unusual = not valid and rng.random() < 0.25
        if unusual:
            lines += rng.sample(_LINES, rng.randint(1, 3))
        return self._framed(method, target, lines, body, well_framed=not unusual and method in (b"POST", b"GET"))

    def _valid(self) -> tuple[bytes, dict[str, Any]]:
        case = self._random.choice((*GENERATION_CASES, *GENERATION_CASES, *EMBEDDING_CASES))
        surface = BY_NAME[case.surface]
        document = copy.deepcopy(case.arguments)
        if surface.streams_by_default is not None:
            document["stream"] = self._random.random() < 0.6
        if surface.name == "v1_messages" or (surface.cap_field == ("max_tokens",) and self._random.random() < 0.3):
            document["max_tokens"] = self._random.choice((1, 5, 300))
        return surface.path.encode(), document

    def _authorization(self) -> bytes:
        key = self._random.choice((*self._keys, *self._keys, "nz_" + "a" * 42, "sk-none", ""))
        # Most requests have a valid key. The others show what is possible without one.
        key = key if self._random.random() < 0.3 else self._random.choice(self._keys)
        return self._random.choice((b"Authorization: Bearer %s", b"x-api-key: %s")) % key.encode()

    def _mutated(self, document: dict[str, Any]) -> dict[str, Any]:
        for _ in range(self._random.choice((1, 1, 2, 5))):
            parent, key = self._random_location(document)
            change: Callable[[], None] = self._random.choice(
                (
                    lambda parent=parent, key=key: parent.__setitem__(key, self._value()),
                    lambda parent=parent, key=key: parent.__delitem__(key),
                    lambda: document.__setitem__(self._random.choice(_KEYS), self._value()),
                    lambda: document.__setitem__("model", self._random.choice(_MODELS)),
                    lambda: document.__setitem__("options", {self._random.choice(_KEYS): self._value()}),
                )
            )
            if document:
                change()
        return document

    def _value(self) -> Any:
        """A fresh copy: a shared value could be inserted into itself."""
        return copy.deepcopy(self._random.choice(_VALUES))

    def _random_location(self, document: dict[str, Any]) -> tuple[Any, Any]:
        """A random container in the document and one of its keys or indexes; `model` for an empty document."""
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                return document, next(iter(document), "model")
            key = self._random.choice(keys)
            child = node[key]
            if not isinstance(child, dict | list) or not child or self._random.random() < 0.3:
                return node, key
            node = child

    def _corrupted(self, body: bytes) -> bytes:
        """Bytes that are no longer JSON, or JSON that two parsers may read differently."""
        rng = self._random
        at = rng.randrange(len(body) + 1)
        return rng.choice(
            (
                lambda: body[:at],
                lambda: body[:at] + bytes([rng.randrange(256)]) + body[at:],
                lambda: body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :],
                lambda: body + b" " * 3000,
                lambda: body + body,
                lambda: b"\xef\xbb\xbf" + body,
                lambda: body.decode("utf-8", "replace").encode("utf-16"),
                lambda: b'{"model":"qwen3:8b",' + body[1:],
                lambda: b"[" * 2000 + body,
                lambda: body.replace(b":", b":" + b" " * 300_000, 1),
                lambda: b"",
                lambda: rng.randbytes(200),
            )
        )()

    def _framed(
        self, method: bytes, target: bytes, lines: list[bytes], body: bytes, *, well_framed: bool
    ) -> RawRequest:
        rng = self._random
        if rng.random() < 0.2:
            framing, body = b"Transfer-Encoding: chunked", _chunked(body, rng.randint(1, 4))
        else:
            framing = b"Content-Length: %d" % len(body)
        head = b"\r\n".join([b"%s %s HTTP/1.1" % (method, target), b"Host: gateway.example", framing, *lines, b"", b""])
        data = head + body
        delivery = rng.random()
        if delivery < 0.08:
            # The client disconnects in the middle of its request.
            return RawRequest((data[: rng.randrange(1, len(data))],), method, well_framed=False, read_bytes_max=0)
        if delivery < 0.16:
            return RawRequest((data,), method, well_framed=False, read_bytes_max=rng.choice((0, 1, 200, 1500)))
        cut = rng.randrange(len(data)) if delivery < 0.3 else 0
        return RawRequest((data[:cut], data[cut:]) if cut else (data,), method, well_framed)


def _chunked(body: bytes, count: int) -> bytes:
    size = max(1, -(-len(body) // count))
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

"""Requests for a gateway to be shot at with: valid ones of every surface, and what can be done to them. Pure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.wire.surfaces import BY_NAME
from tests.e2e.surface_cases import CASES, VECTORS

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
class Shot:
    """The bytes of one request and how they are sent.

    `pieces` are written one after the other. `well_framed`: the answer's end is known, and another request may follow
    on the connection. `reads_bytes_max`: the client leaves after so many bytes of the answer; None: it stays.
    """

    pieces: tuple[bytes, ...]
    method: bytes
    well_framed: bool
    reads_bytes_max: int | None = None


class Gun:
    """Makes shots. The same seed and keys give the same shots."""

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - nothing secret
        self._keys = keys

    def shot(self) -> Shot:
        """The next one. Two in five are valid to the last byte."""
        dice = self._dice
        target, document = self._valid()
        body, method, lines, valid = b"", b"POST", [self._authorization()], dice.random() < 0.4
        if not valid and dice.random() < 0.6:
            document = self._mutated(document)
        body = json.dumps(document, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
        if not valid and dice.random() < 0.2:
            body = self._spoiled(body)
        if not valid and dice.random() < 0.15:
            target = dice.choice(_TARGETS)
        if not valid and dice.random() < 0.1:
            method = dice.choice(_METHODS)
        odd = not valid and dice.random() < 0.25
        if odd:
            lines += dice.sample(_LINES, dice.randint(1, 3))
        return self._sent(method, target, lines, body, well_framed=not odd and method in (b"POST", b"GET"))

    def _valid(self) -> tuple[bytes, dict[str, Any]]:
        case = self._dice.choice((*CASES, *CASES, *VECTORS))
        surface = BY_NAME[case.surface]
        document = copy.deepcopy(case.asked)
        if surface.streams_by_default is not None:
            document["stream"] = self._dice.random() < 0.6
        if surface.name == "v1_messages" or (surface.cap_field == ("max_tokens",) and self._dice.random() < 0.3):
            document["max_tokens"] = self._dice.choice((1, 5, 300))
        return surface.path.encode(), document

    def _authorization(self) -> bytes:
        key = self._dice.choice((*self._keys, *self._keys, "nz_" + "a" * 42, "sk-none", ""))
        # Most are the valid ones; what is left shows what a stranger can do.
        key = key if self._dice.random() < 0.3 else self._dice.choice(self._keys)
        return self._dice.choice((b"Authorization: Bearer %s", b"x-api-key: %s")) % key.encode()

    def _mutated(self, document: dict[str, Any]) -> dict[str, Any]:
        for _ in range(self._dice.choice((1, 1, 2, 5))):
            parent, key = self._place(document)
            change: Callable[[], None] = self._dice.choice(
                (
                    lambda parent=parent, key=key: parent.__setitem__(key, self._value()),
                    lambda parent=parent, key=key: parent.__delitem__(key),
                    lambda: document.__setitem__(self._dice.choice(_KEYS), self._value()),
                    lambda: document.__setitem__("model", self._dice.choice(_MODELS)),
                    lambda: document.__setitem__("options", {self._dice.choice(_KEYS): self._value()}),
                )
            )
            if document:
                change()
        return document

    def _value(self) -> Any:
        """A value of its own: one that stands in two places could be put into itself."""
        return copy.deepcopy(self._dice.choice(_VALUES))

    def _place(self, document: dict[str, Any]) -> tuple[Any, Any]:
        """Some key or index anywhere in the document; in an empty one, a key it does not have."""
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                return document, next(iter(document), "model")
            key = self._dice.choice(keys)
            child = node[key]
            if not isinstance(child, dict | list) or not child or self._dice.random() < 0.3:
                return node, key
            node = child

    def _spoiled(self, body: bytes) -> bytes:
        """Bytes that are JSON no longer, or JSON that two readers read differently."""
        dice = self._dice
        at = dice.randrange(len(body) + 1)
        return dice.choice(
            (
                lambda: body[:at],
                lambda: body[:at] + bytes([dice.randrange(256)]) + body[at:],
                lambda: body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :],
                lambda: body + b" " * 3000,
                lambda: body + body,
                lambda: b"\xef\xbb\xbf" + body,
                lambda: body.decode("utf-8", "replace").encode("utf-16"),
                lambda: b'{"model":"qwen3:8b",' + body[1:],
                lambda: b"[" * 2000 + body,
                lambda: body.replace(b":", b":" + b" " * 300_000, 1),
                lambda: b"",
                lambda: dice.randbytes(200),
            )
        )()

    def _sent(self, method: bytes, target: bytes, lines: list[bytes], body: bytes, *, well_framed: bool) -> Shot:
        dice = self._dice
        if dice.random() < 0.2:
            framing, body = b"Transfer-Encoding: chunked", _chunked(body, dice.randint(1, 4))
        else:
            framing = b"Content-Length: %d" % len(body)
        head = b"\r\n".join([b"%s %s HTTP/1.1" % (method, target), b"Host: gateway.example", framing, *lines, b"", b""])
        data = head + body
        fate = dice.random()
        if fate < 0.08:
            # The caller leaves in the middle of its own request.
            return Shot((data[: dice.randrange(1, len(data))],), method, well_framed=False, reads_bytes_max=0)
        if fate < 0.16:
            return Shot((data,), method, well_framed=False, reads_bytes_max=dice.choice((0, 1, 200, 1500)))
        cut = dice.randrange(len(data)) if fate < 0.3 else 0
        return Shot((data[:cut], data[cut:]) if cut else (data,), method, well_framed)


def _chunked(body: bytes, count: int) -> bytes:
    size = max(1, -(-len(body) // count))
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

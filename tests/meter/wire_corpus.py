"""The transcripts of `tests/corpus/ollama` that belong to a surface, and the grants their requests would get."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gateway.errors import Denied
from gateway.record.grant import Grant, draft, seal
from gateway.request.generation import read_generation_request
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import BY_PATH, Surface
from meter.answer.failure_frame import FailureFrame
from meter.frames.readers import load_object

_CORPUS = Path(__file__).parent.parent / "corpus" / "ollama"


@dataclass(frozen=True, slots=True)
class Transcript:
    """One exchange: the request's path and body, the answer's status, content type and bytes."""

    name: str
    path: str
    request: bytes
    status: int
    content_type: str
    body: bytes

    @property
    def surface(self) -> Surface:
        """The surface it was recorded on."""
        return BY_PATH[self.path]


def transcript(name: str) -> Transcript:
    """Reads one file of the corpus, named without its suffix."""
    raw = (_CORPUS / f"{name}.txt").read_bytes()
    request, _, rest = raw.removeprefix(b"=== REQUEST\n").partition(b"\n=== RESPONSE HEAD\n")
    head, _, rest = rest.partition(b"\n=== RESPONSE BODY")
    body = rest.partition(b"\n")[2]
    request_head, _, request_body = request.partition(b"\n\n")
    status_line, *fields = head.decode().splitlines()
    headers = dict(field.split(": ", 1) for field in fields if field)
    path = request_head.split()[1].decode()
    return Transcript(name, path, request_body, int(status_line.split()[1]), headers["Content-Type"], body)


def transcripts() -> list[Transcript]:
    """Every exchange with a surface, in the order of their names."""
    return [found for path in sorted(_CORPUS.glob("*.txt")) if (found := transcript(path.stem)).path in BY_PATH]


def grant_for(surface: Surface, **changes: Any) -> Grant:
    """A grant whose cap covers every transcript; `changes` are fields of the Grant."""
    fields: dict[str, Any] = {
        "request_id": "req-1", "admitted_at_ms": 0, "tenant_id": 1, "tenant": "acme", "key_id": 1, "key_prefix": "nz_a",
        "client_ip": "192.0.2.1", "user_agent": "test", "method": "POST", "path": surface.path,
        "surface": surface.name, "model": "llama3.2:latest", "stream": bool(surface.streams_by_default),
        "strip_usage": False, "runner_options": False, "show_backend": False, "log_prompts": False,
        "input_estimate": 11, "output_cap": 100 if surface.cap_field else 0, "request_bytes": 0,
    }  # fmt: skip
    return Grant(**{**fields, **changes})


def received(surface: Surface, data: bytes, body: bytes | Denied | None) -> bytes:
    """What the caller gets when the meter replies `body` to the chunk `data`."""
    if isinstance(body, Denied):
        return error_body(surface.dialect, body.code, body.message, "req-1")
    return data if body is None else body


def failure_after(surface: Surface, passed: bytes, message: str) -> bytes:
    """The frame that reports the failure of a stream, of which `passed` has reached the caller."""
    frame = FailureFrame(surface, "req-1")
    for line in passed.splitlines():
        frame.observe(load_object(line.removeprefix(b"data: ")))
    return frame.build(message)


def draft_of(grant: Grant) -> str:
    """The grant as authz writes it before the admission."""
    return draft(
        grant,
        strip_usage=grant.strip_usage,
        runner_options=grant.runner_options,
        show_backend=grant.show_backend,
        log_prompts=grant.log_prompts,
    )


def json_of(grant: Grant) -> str:
    """The text that `grant` is read from."""
    return seal(draft_of(grant), grant.admitted_at_ms, grant.input_estimate, grant.output_cap)


def grant_of(exchange: Transcript, **changes: Any) -> Grant:
    """The grant that the transcript's own request would get."""
    return grant_for(exchange.surface, **{"stream": _streams(exchange), **changes})


@cache
def _streams(exchange: Transcript) -> bool:
    try:
        return read_generation_request(exchange.surface, json.loads(exchange.request)).stream
    except ValueError:
        return bool(exchange.surface.streams_by_default)

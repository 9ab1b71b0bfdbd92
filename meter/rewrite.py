"""Writes the grant into the caller's own JSON, which becomes the request body for the backend. Pure.

authz has read the same bytes strictly (one object, no key twice in any spelling), so parsing them again gives the
document that it judged. The text itself is never patched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.record.grant import Grant
from gateway.wire.surfaces import BY_NAME

# Each of these makes Ollama reload, keep or unload the model for all its users, or shows the rendered system prompt.
RUNNER_FIELDS = ("keep_alive", "shift", "_debug_render_only")
# Those in the second line belong to Ollama releases before 0.30.
RUNNER_OPTIONS = (
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict",
    "numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The new body, UTF-8 JSON, and the names of the dropped options as `X-Gateway-Dropped-Options` lists them."""

    body: bytes
    dropped_options: tuple[str, ...]


def rewrite(body: bytes, grant: Grant) -> Rewritten:
    """Writes model, output cap, streaming and usage report as granted. Other fields keep their values and order.

    Raises ValueError when `body` is not a JSON object, and when a generating surface was granted no output, because
    Ollama reads a cap of zero as no cap.
    """
    document = json.loads(body.decode())
    if not isinstance(document, dict):
        raise ValueError("the request body is not a JSON object")  # noqa: TRY004 (about the body, not our call)
    surface = BY_NAME[grant.surface]
    document["model"] = grant.model
    if surface.cap_field is not None:
        _write_cap(document, surface.cap_field, grant.output_cap)
    if surface.ignored_cap_field is not None:
        # Left in the body it would promise a limit that Ollama does not keep. The granted cap covers it already.
        document.pop(surface.ignored_cap_field, None)
    if surface.streams_by_default is not None:
        document["stream"] = grant.stream
    if grant.stream and surface.usage_on_request:
        _child(document, "stream_options")["include_usage"] = True
    dropped = () if grant.runner_options else _drop_runner_options(document)
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Rewritten(text.encode(), dropped)


def _write_cap(document: dict[str, Any], cap_field: tuple[str, ...], output_cap: int) -> None:
    if output_cap < 1:
        raise ValueError("a generating request needs an output cap of at least one token")
    *parents, field = cap_field
    for parent in parents:
        document = _child(document, parent)
    document[field] = output_cap


def _child(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The object at `name`, created when it is absent or null."""
    child = document.get(name)
    if not isinstance(child, dict):
        child = document[name] = {}
    return child


def _drop_runner_options(document: dict[str, Any]) -> tuple[str, ...]:
    dropped = [name for name in RUNNER_FIELDS if name in document]
    for name in dropped:
        del document[name]
    options = document.get("options")
    if isinstance(options, dict):
        for name in RUNNER_OPTIONS:
            if name in options:
                del options[name]
                dropped.append(f"options.{name}")
    return tuple(dropped)

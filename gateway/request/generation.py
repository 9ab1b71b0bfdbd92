"""Reads the generation parameters of a request: its output cap, streaming, and whether it wants a usage report.

Pure. authz bases the grant on them; the meter then writes the granted values into the body (`meter.rewrite`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.wire.surfaces import Dialect, Surface

# Ollama reads a larger cap, which exceeds its integers, as "unlimited".
OUTPUT_TOKENS_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The generation parameters that the caller sent.

    `output_tokens` is None when the request has no cap, or one that means unlimited. `named_cap` is the value of the
    field that Ollama reads, which may mean unlimited; only without it does Ollama use the cap in the Modelfile.
    `usage` is False only for a stream that would carry no usage report: a report in it was requested by the gateway and
    has to be removed.
    """

    output_tokens: int | None
    stream: bool
    usage: bool
    named_cap: int | None = None

    @property
    def names_cap(self) -> bool:
        """Whether the request has a cap that Ollama reads."""
        return self.named_cap is not None


def read_generation_request(surface: Surface, document: Mapping[str, Any]) -> GenerationRequest:
    """Reads the options of a strictly parsed request body. Null counts as absent, as in Ollama.

    Raises ValueError, with a sentence for the caller, when a field has the wrong type.
    """
    if surface.cap_required:
        _require_cap(surface, document)
    stream = _read_stream(surface, document)
    usage = not (stream and surface.usage_on_request) or _read_include_usage(document)
    return GenerationRequest(_read_output_tokens(surface, document), stream, usage, _named_cap(surface, document))


def _read_stream(surface: Surface, document: Mapping[str, Any]) -> bool:
    if surface.streams_by_default is None:
        return False
    stream = _read_bool("stream", document.get("stream"))
    return surface.streams_by_default if stream is None else stream


def _read_include_usage(document: Mapping[str, Any]) -> bool:
    options = _read_object("stream_options", document.get("stream_options"))
    return bool(_read_bool("stream_options.include_usage", options.get("include_usage")))


def _require_cap(surface: Surface, document: Mapping[str, Any]) -> None:
    *_, field = surface.cap_field or ("",)
    value = document.get(field)
    if value is None or (isinstance(value, int) and value <= 0):
        raise ValueError(f"{field} is required and must be positive")


def _named_cap(surface: Surface, document: Mapping[str, Any]) -> int | None:
    if surface.cap_field is None:
        return None
    # Its type was checked when the cap was read.
    cap = _holder_of_cap(surface.cap_field, document).get(surface.cap_field[-1])
    return None if cap is None else int(cap)


def _holder_of_cap(cap_field: tuple[str, ...], document: Mapping[str, Any]) -> Mapping[str, Any]:
    for parent in cap_field[:-1]:
        document = _read_object(parent, document.get(parent))
    return document


def _read_output_tokens(surface: Surface, document: Mapping[str, Any]) -> int | None:
    if surface.cap_field is None:
        return None
    holder = _holder_of_cap(surface.cap_field, document)
    caps = [_read_tokens(surface, ".".join(surface.cap_field), holder.get(surface.cap_field[-1]))]
    if surface.ignored_cap_field is not None:
        caps.append(_read_tokens(surface, surface.ignored_cap_field, document.get(surface.ignored_cap_field)))
    return min((tokens for tokens in caps if tokens is not None), default=None)


def _read_tokens(surface: Surface, name: str, value: object) -> int | None:
    """A cap in tokens; None for null and for every value that Ollama reads as "unlimited".

    Only the native options accept a whole number that is written as a fraction, such as `8.0`.
    """
    is_native = surface.dialect is Dialect.NATIVE
    if value is None:
        return None
    if is_native and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"the field '{name}' must be a whole number of tokens")  # noqa: TRY004 (about the request, not our call)
    return value if 0 < value <= OUTPUT_TOKENS_MAX else None


def _read_bool(name: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"the field '{name}' must be true or false")


def _read_object(name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"the field '{name}' must be a JSON object")

"""Writes the grant into the caller's own JSON, which becomes the request body for the backend. Pure.

authz has read the same bytes strictly (every field that is written here at most once and in one spelling), so the
fields that this module finds are those that authz judged. All other fields keep their text.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.record.grant import Grant
from gateway.request.json_text import JsonObject, quoted
from gateway.request.runner_options import RUNNER_FIELDS, RUNNER_OPTIONS
from gateway.request.server_tools import DROPPED_NAME, without_server_tools
from gateway.wire.surfaces import BY_NAME

_RUNNER_OPTIONS = frozenset(RUNNER_OPTIONS)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The new body, UTF-8 JSON, and the names of the dropped options as `X-Gateway-Dropped-Options` lists them."""

    body: bytes
    dropped_options: tuple[str, ...]


def rewrite(body: bytes, grant: Grant) -> Rewritten:
    """Writes model, output cap, streaming and usage report as granted. Other fields keep their text and their order.

    Raises ValueError when `body` is not a JSON object, and when a generating surface was granted no output, because
    Ollama reads a cap of zero as no cap.
    """
    document = JsonObject(body.decode())
    surface = BY_NAME[grant.surface]
    document.set("model", quoted(grant.sent_model))
    dropped = [] if grant.runner_options else _drop_runner_options(document)
    if surface.cap_field is not None:
        _write_cap(document, surface.cap_field, grant.output_cap)
    if surface.ignored_cap_field is not None:
        # Left in the body it would promise a limit that Ollama does not keep. The granted cap covers it already.
        document.remove(surface.ignored_cap_field)
    if surface.streams_by_default is not None:
        document.set("stream", "true" if grant.stream else "false")
    if grant.stream and surface.usage_on_request:
        _write_within(document, "stream_options", "include_usage", "true")
    if grant.refuses_overflow and surface.truncates:
        document.set("truncate", "false")
    tools = document.get("tools")
    if tools is not None and (tools := without_server_tools(tools)) is not None:
        document.set("tools", tools)
        dropped.append(DROPPED_NAME)
    return Rewritten(str(document).encode(), tuple(dropped))


def _write_cap(document: JsonObject, cap_field: tuple[str, ...], output_cap: int) -> None:
    if output_cap < 1:
        raise ValueError("a generating request needs an output cap of at least one token")
    *parents, field = cap_field
    if parents:
        _write_within(document, parents[0], field, str(output_cap))
    else:
        document.set(field, str(output_cap))


def _write_within(document: JsonObject, parent: str, field: str, value: str) -> None:
    """Writes a field of the object at `parent`, which is created when it is absent or not an object."""
    text = document.get(parent)
    if text is None or not text.startswith("{"):
        document.set(parent, f"{{{quoted(field)}:{value}}}")
        return
    child = JsonObject(text)
    child.set(field, value)
    document.set(parent, str(child))


def _drop_runner_options(document: JsonObject) -> list[str]:
    """Removes the options of the runner and returns their names. Null requests nothing, so it is not named."""
    dropped = _removed(document, RUNNER_FIELDS)
    text = document.get("options")
    if text is not None and text.startswith("{"):
        options = JsonObject(text)
        if any(member.name in _RUNNER_OPTIONS for member in options.members):
            dropped += [f"options.{name}" for name in _removed(options, RUNNER_OPTIONS)]
            document.set("options", str(options))
    return dropped


def _removed(fields: JsonObject, names: tuple[str, ...]) -> list[str]:
    given = {member.name for member in fields.members}.intersection(names)
    if not given:
        return []
    requested = [name for name in names if name in given and fields.get(name) != "null"]
    for name in given:
        fields.remove(name)
    return requested

"""The endpoints that the playground offers: the texts of `endpoints.toml` with the facts of `gateway.wire.surfaces`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from gateway.wire.surfaces import BY_PATH, Dialect, Surface

_SOURCE = Path(__file__).with_name("endpoints.toml")
_TEXTS = ("group", "method", "path", "about", "note")
_OPTIONAL = ("scope", "kind", "model", "tool", "clients", "reference")


def load_table() -> dict[str, Any]:
    """The `endpoints` in the order of the menu and the `arguments` of the clients, as the script of the page has them.

    Raises KeyError for an endpoint without a required text.
    """
    tables = tomllib.loads(_SOURCE.read_text(encoding="utf-8"))
    return {"endpoints": [_entry(each) for each in tables["endpoint"]], "arguments": tables["arguments"]}


def _entry(text: dict[str, Any]) -> dict[str, Any]:
    surface = BY_PATH.get(text["path"])
    entry: dict[str, Any] = {
        "id": f"{text['method']} {text['path']}",
        "request": text["request"].strip("\n") if "request" in text else None,
        "response": text["response"].strip("\n"),
        "auth": "none" if text.get("public") else "key",
        "form": dict(text.get("form", {})),
    }
    entry |= {name: text[name] for name in _TEXTS}
    entry |= {name: text[name] for name in _OPTIONAL if name in text}
    return entry if surface is None else {**entry, **_facts(surface, entry["form"])}


def _facts(surface: Surface, form: dict[str, str]) -> dict[str, Any]:
    """The scope, the framing and the reader of a surface, and the form fields that follow from its table row."""
    if surface.cap_field is not None:
        form["tokens"] = ".".join(surface.cap_field)
    if surface.streams_by_default is not None:
        form["stream"] = "stream"
    return {
        "scope": str(surface.scope),
        "reader": str(surface.answer_shape),
        "framing": "NDJSON" if surface.dialect is Dialect.NATIVE else "SSE",
        "streamsByDefault": surface.streams_by_default,
        "form": form,
    }

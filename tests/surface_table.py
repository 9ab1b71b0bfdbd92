"""The table of docs/surfaces.md, made by asking reader and rewriter what they do with each field on each surface.

`python -m tests.surface_table` prints it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from authz.request import ReadRequest, read_request
from gateway.errors import Denied
from gateway.wire.surfaces import SURFACES, Surface
from meter.rewrite import RUNNER_FIELDS, RUNNER_OPTIONS, Rewritten, rewrite
from tests.meter.wire_corpus import grant_for

# Neither what is asked for below nor what is granted when nothing is asked for.
GRANTED = 321

# What a row shows, and a body fragment that has it with a value of the kind it is for.
FIELDS: dict[str, dict[str, Any]] = {
    "`model`": {"model": "LLAMA3.2"},
    "`stream`": {"stream": False},
    "`stream_options.include_usage`": {"stream": True, "stream_options": {"include_usage": False}},
    "`options.num_predict`": {"options": {"num_predict": 7}},
    "`max_tokens`": {"max_tokens": 7},
    "`max_completion_tokens`": {"max_completion_tokens": 7},
    "`max_output_tokens`": {"max_output_tokens": 7},
    **{f"`{name}`": {name: 1} for name in RUNNER_FIELDS},
    **{f"`options.{name}`": {"options": {name: 1}} for name in RUNNER_OPTIONS},
    "other `options`": {"options": {"temperature": 0.5}},
    "tools that Ollama runs itself": {"tools": [{"type": "web_search", "name": "s"}]},
    "other `tools`": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "any other field": {"messages": [{"role": "user", "content": "Hi"}], "unheard_of": [1, {"a": None}]},
    "a key twice, or a known field in another case": {"Stream": False},
}


def table() -> str:
    """The table in Markdown, one row a field, one column a surface."""
    head = ["field", *(f"`{surface.path}`" for surface in SURFACES)]
    rows = [[name, *(verdict(surface, fragment) for surface in SURFACES)] for name, fragment in FIELDS.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def verdict(surface: Surface, fragment: dict[str, Any]) -> str:
    """What happens to the last field of `fragment`, with and without the scope `runner`, and when it is absent."""
    body = json.dumps({"model": "m", **fragment}).encode()
    try:
        read = read_request(surface, body, "")
    except Denied:
        return "refused"
    result, privileged = (_rewritten(surface, read, body, runner_options=scope) for scope in (False, True))
    path = _path(fragment)
    before, after = _at(json.loads(body), path), _at(json.loads(result.body), path)
    if ".".join(path) in result.dropped_options:
        assert _at(json.loads(privileged.body), path) == before
        return "dropped¹"
    if after is None:
        return "removed"
    verb = "passes" if after == before else "capped" if after == GRANTED else "set"
    streamed = read_request(surface, b'{"model":"m","stream":true}', "")
    alone = _rewritten(surface, streamed, b'{"model":"m"}', runner_options=False)
    is_added = path != ("model",) and _at(json.loads(alone.body), path) is not None
    return f"{verb}, added" if is_added else verb


def _rewritten(surface: Surface, read: ReadRequest, body: bytes, *, runner_options: bool) -> Rewritten:
    cap = GRANTED if surface.cap_field else 0
    grant = grant_for(
        surface, model=read.model, stream=read.generation.stream, runner_options=runner_options, output_cap=cap
    )
    return rewrite(body, grant)


def _path(fragment: dict[str, Any]) -> tuple[str, ...]:
    name, value = list(fragment.items())[-1]
    return (name, *value) if isinstance(value, dict) else (name,)


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

"""Applies a function to the texts in the body of a request or an answer, also where frames divide a text. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Change = Callable[[str], str]
Path = tuple[str | int, ...]

# Members that continue in the next frame of a stream, on all surfaces.
_CONTINUED = frozenset(
    "content thinking response text reasoning reasoning_content refusal delta arguments partial_json".split()
)
_EVENT = "data:"


def change_texts(body: str, change: Change) -> str:
    """The body with `change` applied to every string of its JSON, member names and numbers included.

    In a stream, NDJSON or SSE, the pieces of a text are joined before, and the changed text is in the first frame
    that had a piece. A body without any change is returned as it is. What is not JSON, or is nested too deeply, is
    changed as one text.
    """
    try:
        return _change_document(body, change)
    except ValueError:
        return _change_lines(body, change)
    except RecursionError:
        return change(body)


def _change_document(body: str, change: Change) -> str:
    document = json.loads(body)
    changed = _changed(document, change)
    return body if changed == document else json.dumps(changed, ensure_ascii=False)


def _change_lines(body: str, change: Change) -> str:
    lines = body.split("\n")
    frames = {number: frame for number, line in enumerate(lines) if (frame := _frame(line)) is not None}
    pieces: dict[Path, list[tuple[dict[str, Any] | list[Any], str | int]]] = {}
    for _, frame in frames.values():
        for path, holder, name in _continued(frame):
            pieces.setdefault(path, []).append((holder, name))
    originals = {number: json.dumps(frame, ensure_ascii=False) for number, (_, frame) in frames.items()}
    for places in pieces.values():
        joined = "".join(holder[name] for holder, name in places)  # type: ignore[index]  # The path determines the type.
        if (changed := change(joined)) != joined:
            for number, (holder, name) in enumerate(places):
                holder[name] = changed if number == 0 else ""  # type: ignore[index]  # As above.
    for number, line in enumerate(lines):
        if number not in frames:
            lines[number] = change(line)
            continue
        mark, frame = frames[number]
        if (text := json.dumps(_changed(frame, change), ensure_ascii=False)) != originals[number]:
            lines[number] = mark + text
    return "\n".join(lines)


def _frame(line: str) -> tuple[str, Any] | None:
    """What precedes the JSON of a line, and its document; None for a line without an object."""
    mark = _EVENT + " " if line.startswith(_EVENT) else ""
    try:
        document = json.loads(line.removeprefix(_EVENT))
    except (ValueError, RecursionError):
        return None
    return (mark, document) if isinstance(document, dict) else None


def _continued(document: Any) -> Iterator[tuple[Path, Any, str | int]]:
    """The place of each string that continues: its path in the frame, what holds it, and its name there."""
    waiting: list[tuple[Path, Any]] = [((), document)]
    while waiting:
        path, holder = waiting.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for name, value in items:
            if isinstance(value, str):
                if name in _CONTINUED:
                    yield (*_event(document), *path, name), holder, name
            elif isinstance(value, dict | list):
                waiting.append(((*path, name), value))


def _event(document: Any) -> Path:
    """Events of different types and items have separate texts: Anthropic's `index`, OpenAI's `output_index`."""
    names = ("type", "index", "output_index", "content_index")
    return tuple(value for name in names if isinstance(value := document.get(name), str | int))


def _changed(value: Any, change: Change) -> Any:
    match value:
        case str():
            return change(value)
        case bool() | None:
            return value
        case int() | float():
            # A number that is replaced becomes a string, so that the document remains JSON.
            return value if change(text := str(value)) == text else change(text)
        case list():
            return [_changed(each, change) for each in value]
        case dict():
            return {change(name): _changed(each, change) for name, each in value.items()}
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")

"""Compares two answers to one request in everything but words, counts, identifiers and times.

Equal are: the status; the names of the headers, and their values except dates and lengths; the framing; the sequence of
chunks, with the events of each one; the keys of every object in order, the types of their values, and the values that
name something, such as `done_reason`. Runs of chunks of the same form count once, because another tokenizer splits
another text. Errors are equal in their words.
"""

from __future__ import annotations

import json
import operator
import re
from itertools import groupby
from typing import Any

from tests.recordings.recording import Answer

# Values that name something. All other strings count as words.
_NAMES = {
    "model", "object", "type", "role", "status", "finish_reason", "stop_reason", "done_reason", "system_fingerprint",
    "tool_choice", "truncation", "service_tier", "owned_by", "format",
}  # fmt: skip
_IDENTIFIERS = {"id", "item_id", "call_id"}
# Objects whose keys are data.
_DATA = {"arguments", "input", "input_schema", "parameters"}
_VALUE_IGNORED = {"date", "content-length"}
_NUMBER = re.compile(r"\d{3,}")
_REQUEST_ID = re.compile(r"req_[0-9a-f]+")
_PREFIX = re.compile(r"[a-z]+[_-]")


def differences(expected: Answer, received: Answer, *, was_cut: bool = False, is_framed: bool = True) -> list[str]:
    """Descriptions of what differs. With `was_cut`, the received answer may go on after the expected one.

    Without `is_framed`, the headers and the boundaries of the chunks are not compared.
    """
    found = []
    if received.status != expected.status:
        found.append(f"status {received.status} instead of {expected.status}: {received.body[:200]}")
        return found
    if is_framed and (headers := _headers(received)) != (wanted := _headers(expected)):
        found.append(f"headers {sorted(headers - wanted)} instead of {sorted(wanted - headers)}")
    if expected.status >= 400:
        if (words := _words(received)) != (wanted_words := _words(expected)):
            found.append(f"error {words!r} instead of {wanted_words!r}")
        return found
    outline, wanted_outline = _outline(received, is_framed=is_framed), _outline(expected, is_framed=is_framed)
    if was_cut:
        outline = outline[: len(wanted_outline)]
    for position in range(max(len(outline), len(wanted_outline))):
        chunk, wanted_chunk = outline[position : position + 1], wanted_outline[position : position + 1]
        if chunk != wanted_chunk:
            found.append(f"chunk {position}:\n  {chunk}\ninstead of\n  {wanted_chunk}")
            break
    if not was_cut:
        found += _differing_counts(expected, received)
    return found


def _headers(answer: Answer) -> set[tuple[str, str]]:
    return {
        (name.lower(), "" if name.lower() in _VALUE_IGNORED else value)
        for name, value in answer.headers
        if name.lower() != "connection"
    }


def _words(answer: Answer) -> str:
    return _NUMBER.sub("N", _REQUEST_ID.sub("req_", answer.body))


def _outline(answer: Answer, *, is_framed: bool) -> list[Any]:
    """The chunks of an answer, each as the list of its events. Without `is_framed`, each event is one chunk."""
    if not is_framed:
        return [[shape] for shape, _ in groupby(map(_event, _events(answer.body)))]
    return [shape for shape, _ in groupby([_event(part) for part in _events(chunk)] for chunk in answer.chunks)]


def _events(chunk: str) -> list[str]:
    if chunk.startswith(("data:", "event:")):
        return [f"{part}\n\n" for part in chunk.split("\n\n") if part]
    return chunk.splitlines(keepends=True)


def _event(text: str) -> tuple[str, Any, str]:
    """The name of the event, the shape of its data, and what ends it."""
    content = text.rstrip("\n")
    name, _, data = content.rpartition("data: ")
    try:
        shape = _shape("", json.loads(data))
    except json.JSONDecodeError:
        shape = content
    return name, shape, text[len(content) :]


def _shape(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {"{}": "data"} if key in _DATA else [(name, _shape(name, item)) for name, item in value.items()]
    if isinstance(value, list):
        return ["[]", *(shape for shape, _ in groupby(_shape(key, item) for item in value))]
    if isinstance(value, str):
        if key in _IDENTIFIERS and (prefix := _PREFIX.match(value)):
            return prefix.group()
        return value if key in _NAMES else "text" if value else ""
    if isinstance(value, bool) or value is None:
        return value
    return type(value).__name__


def _differing_counts(expected: Answer, received: Answer) -> list[str]:
    """Where the counts of the last frame contradict each other, or the output is not as long as its cap allows."""
    wanted, counts = counts_of(expected), counts_of(received)
    found = []
    if counts.get("done_reason") == "length" == wanted.get("done_reason"):
        found += _differing_length(wanted, counts)
    parts = sum(counts.get(name, 0) for name in ("load_duration", "prompt_eval_duration", "eval_duration"))
    if parts > counts.get("total_duration", parts):
        found.append(f"the durations add up to {parts} of {counts['total_duration']}")
    for whole, part in (("total_tokens", "prompt_tokens"), ("total_tokens", "input_tokens")):
        if part in counts and counts[whole] != counts[part] + counts.get("completion_tokens", 0) + counts.get(
            "output_tokens", 0
        ):
            found.append(f"{whole} is not the sum: {counts}")
    return found


def _differing_length(wanted: dict[str, Any], counts: dict[str, Any]) -> list[str]:
    """An answer of full length is as long as its cap, or fills the context together with its prompt."""
    lengths, wanted_lengths = (
        (each["eval_count"], each["eval_count"] + each["prompt_eval_count"]) for each in (counts, wanted)
    )
    is_equal = any(map(operator.eq, lengths, wanted_lengths))
    return [] if is_equal else [f"eval_count {counts['eval_count']} instead of {wanted['eval_count']}"]


def counts_of(answer: Answer) -> dict[str, Any]:
    """The members of the last object that has counts."""
    for text in reversed([part for chunk in answer.chunks for part in _events(chunk)]):
        data = text.rpartition("data: ")[2]
        if "eval_count" in data or '"total_tokens"' in data:
            document = json.loads(data)
            counts: dict[str, Any] = document.get("response", document).get("usage") if "usage" in data else document
            return counts or {}
    return {}

"""What one frame says about usage: a small event, whatever the surface. Pure; knows no tenant.

Each dialect's module reads its own documents into a FrameRead; `meter.frames.readers` chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.request.token_estimate import text_bytes
from gateway.values import Usage, UsageSource


@dataclass(frozen=True, slots=True)
class FrameRead:
    """One frame of an answer.

    `min_output_tokens` is a lower bound of the tokens in the frame: one for any text, or one per log probability; 0
    for a whole answer, whose text did not arrive in pieces. `text_bytes` is the size of the answer, thinking and tool
    calls. `usage` is the backend's own report; a count it left out is 0. `terminal` marks the frame that completes the
    answer. `finish` is the reason that the frame gives, `error` the backend's error text. `usage_only` marks a chunk
    that carries nothing but the report. `unreadable` marks a payload that is not a JSON object and would break a
    client.
    """

    min_output_tokens: int = 0
    text_bytes: int = 0
    usage: Usage | None = None
    terminal: bool = False
    finish: str | None = None
    error: str | None = None
    usage_only: bool = False
    unreadable: bool = False


def as_object(value: object) -> dict[str, Any]:
    """`value` when it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """`value` when it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str | None:
    """`value` when it is a non-empty string."""
    return value if isinstance(value, str) and value else None


# More than any context window in use. What a backend reports beyond it is an accident, which would use up every
# budget of the caller and, added up, the integers of the counters.
TOKENS_BELIEVED_MAX = 2**24


def as_count(value: object) -> int:
    """`value` when it is a believable token count, else 0, which is what a left-out counter means."""
    return value if type(value) is int and 0 < value <= TOKENS_BELIEVED_MAX else 0


def reported(input_tokens: object, output_tokens: object) -> Usage:
    """The backend's report from two counters of its JSON."""
    return Usage(as_count(input_tokens), as_count(output_tokens), UsageSource.EXACT)


def size_of(*values: object) -> int:
    """Bytes of UTF-8 in every key and string of JSON values, other scalars as Python writes them; never recurses."""
    size_bytes = 0
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size_bytes += text_bytes(value)
        elif isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif value is not None:
            size_bytes += len(repr(value))
    return size_bytes


def size_of_calls(calls: object) -> int:
    """The text of `tool_calls`: each function's name and arguments, without the ids the server made up."""
    functions = (as_object(as_object(call).get("function")) for call in as_list(calls))
    return sum(size_of(function.get("name"), function.get("arguments")) for function in functions)


def min_tokens_of(size_bytes: int, logprobs: Iterable[object] = (), *, whole: bool) -> int:
    """The sure tokens of one frame: its log probabilities are one per token, also where no text is shown yet."""
    return max(len(list(logprobs)), 1 if size_bytes and not whole else 0)

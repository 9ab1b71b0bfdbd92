"""What one frame contributes to usage, in the same form for every surface. Pure; knows no tenant.

Each dialect's module reads its own documents into a FrameRead, and `meter.frames.readers` selects the module.
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

    `min_output_tokens` is a lower bound of the tokens in the frame: one for any text, or one per log probability. It is
    0 for a whole answer, because its text did not arrive in frames. `text_bytes` is the size of the answer, thinking
    and tool calls. `words` is the number of words in the answer and thinking; in any vocabulary in use each of them is
    at least one token. `usage` is the backend's own report, with 0 for a count that it left out. `terminal` marks the
    frame that completes the answer. `finish` is the finish reason, `error` the backend's error text. `usage_only` marks
    a frame that carries nothing but the report. `unreadable` marks a payload that is not an answer of its surface and
    would break a client.
    """

    min_output_tokens: int = 0
    text_bytes: int = 0
    words: int = 0
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


# More than any context window in use. A backend that reports more is faulty, and its count would exhaust every budget
# of the caller and, in sums, the integers of the counters.
PLAUSIBLE_TOKENS_MAX = 2**24


def as_count(value: object) -> int:
    """`value` when it is a plausible token count, else 0, the meaning of a counter that was left out."""
    return value if type(value) is int and 0 < value <= PLAUSIBLE_TOKENS_MAX else 0


def reported(input_tokens: object, output_tokens: object) -> Usage:
    """The backend's report, made of two counters of its JSON."""
    return Usage(as_count(input_tokens), as_count(output_tokens), UsageSource.EXACT)


def size_of(*values: object) -> int:
    """The UTF-8 bytes in all keys and strings of JSON values, other scalars as Python prints them. Not recursive."""
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


def words_in(*values: object) -> int:
    """The number of words in strings, between blanks. Other values have none."""
    return sum(len(value.split()) for value in values if isinstance(value, str))


def size_of_calls(calls: object) -> int:
    """The size of `tool_calls`: each function's name and arguments, without the ids that the server generates."""
    if not calls:
        return 0
    functions = (as_object(as_object(call).get("function")) for call in as_list(calls))
    return sum(size_of(function.get("name"), function.get("arguments")) for function in functions)


def min_tokens_of(size_bytes: int, logprobs: Iterable[object] = (), *, whole: bool) -> int:
    """A lower bound of the tokens in one frame. Each log probability is a token, even before its text appears."""
    at_least = 1 if size_bytes and not whole else 0
    return max(len(list(logprobs)), at_least) if logprobs else at_least

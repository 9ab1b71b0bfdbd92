"""Sends the recorded requests to a server and compares its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from tests.ops.simulator.raw_http import parse
from tests.recordings.comparison import counts_of, differences
from tests.recordings.recording import Answer, Recording

# The recorded server needed as much as half a minute for an answer on a CPU.
ANSWER_TIMEOUT_S = 120.0
_COUNT_NAMES = (
    ("prompt_eval_count", "prompt_tokens", "input_tokens"),
    ("eval_count", "completion_tokens", "output_tokens"),
)


@dataclass(frozen=True)
class Difference:
    """What differs between an answer and the one it is compared with."""

    recording: str
    what: str


async def replay(url: str, recordings: Iterable[Recording], headers: Mapping[str, str]) -> dict[str, Answer]:
    """The answer to each recorded request, by the name of the recording, one request after the other."""
    return {each.name: await _answer(url, replace(each, headers={**each.headers, **headers})) for each in recordings}


def compare(
    recordings: Iterable[Recording],
    expected: Mapping[str, Answer],
    received: Mapping[str, Answer],
    *,
    is_framed: bool = True,
) -> list[Difference]:
    """The first difference of each pair of answers."""
    return [
        Difference(each.name, what)
        for each in recordings
        for what in differences(expected[each.name], received[each.name], was_cut=each.was_cut, is_framed=is_framed)[:1]
    ]


def reported_tokens(answer: Answer) -> tuple[int, int] | None:
    """The input and output tokens that an answer reports, or None if it reports none."""
    counts = counts_of(answer)
    if not counts or "embeddings" in answer.body:
        return None
    tokens_in, tokens_out = (next((counts[name] for name in names if name in counts), 0) for names in _COUNT_NAMES)
    return tokens_in, tokens_out


def model_of(recording: Recording) -> str | None:
    """The model that the request names, or None."""
    try:
        body: Any = json.loads(recording.body)
    except ValueError:
        return None
    return body.get("model") if isinstance(body, dict) else None


async def _answer(url: str, recording: Recording) -> Answer:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(recording.request)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reply = parse(await reader.read())
    finally:
        writer.close()
    parts = reply.chunks if reply.chunks is not None else [reply.body] if reply.body else []
    return Answer(reply.status, reply.header_lines, tuple(part.decode() for part in parts))

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Denied
from gateway.record.grant import Grant
from gateway.wire.surfaces import BY_NAME
from meter.answer.answer import Answer
from meter.answer.echoes import Echo
from tests.meter.wire_corpus import Transcript, grant_for, grant_of, transcripts

SUCCESSFUL = [each for each in transcripts() if each.status == 200]
_NAME = re.compile(rb'"model":"([^"]+)"')


def delivered(exchange: Transcript, grant: Grant, cuts: list[int]) -> bytes:
    answer = Answer(grant)
    answer.headers(exchange.status, exchange.content_type)
    edges = [0, *sorted(cut % (len(exchange.body) + 1) for cut in cuts), len(exchange.body)]
    out = b""
    pieces = [exchange.body[start:end] for start, end in pairwise(edges)]
    for piece, end_of_stream in [*((piece, False) for piece in pieces), (b"", True)]:
        body = answer.chunk(piece, end_of_stream)
        assert not isinstance(body, Denied)
        out += piece if body is None else body
        if answer.result:
            break
    return out


@pytest.mark.parametrize("exchange", SUCCESSFUL, ids=lambda exchange: exchange.name)
@pytest.mark.parametrize("cuts", [[], [1, 9, 40, 41, 200]], ids=["whole", "cut"])
def test_every_recorded_answer_has_the_name_as_the_caller_spelled_it(exchange: Transcript, cuts: list[int]) -> None:
    sent = set(_NAME.findall(exchange.body)) or {b"m:latest"}
    name = sent.pop().decode()
    grant = grant_of(exchange, model=name.lower(), hosted_model=name, requested_model=name.upper(), strip_usage=False)
    plain = grant_of(exchange, model=name.lower(), hosted_model=name, requested_model=name, strip_usage=False)
    old, new = (b'"model":"%b"' % each.encode() for each in (name, name.upper()))
    expected = delivered(exchange, plain, cuts).replace(old, new)
    assert delivered(exchange, grant, cuts) == expected


def answer_of(surface: str, document: dict[str, Any], requested: str) -> dict[str, Any]:
    body = json.dumps(document).encode() + b"\n"
    grant = grant_for(
        BY_NAME[surface], stream=False, model="m:latest", hosted_model="M:latest", requested_model=requested
    )
    exchange = Transcript("own", BY_NAME[surface].path, b"{}", 200, "application/json", body)
    return dict(json.loads(delivered(exchange, grant, [])))


def test_the_argument_of_a_call_is_not_a_name_of_the_answer() -> None:
    call = {"function": {"name": "load", "arguments": {"model": "M:latest"}}}
    message = {"role": "assistant", "content": '"model":"M:latest"', "tool_calls": [call]}
    sent = {"model": "M:latest", "message": message, "done": True, "done_reason": "stop", "eval_count": 3}
    assert answer_of("chat", sent, "m") == {**sent, "model": "m"}


@given(st.integers(0, 3000), st.lists(st.integers(0, 9000), max_size=6))
def test_the_name_behind_a_long_vector_is_found_wherever_the_chunks_are_cut(numbers: int, cuts: list[int]) -> None:
    document = {"object": "list", "data": [{"embedding": [0.5] * numbers}], "model": "M:latest", "usage": {}}
    body = json.dumps(document).encode()
    grant = grant_for(BY_NAME["v1_embeddings"], hosted_model="M:latest", requested_model="m")
    exchange = Transcript("own", "/v1/embeddings", b"{}", 200, "application/json", body)
    assert json.loads(delivered(exchange, grant, cuts)) == {**document, "model": "m"}


def responses_answer(document: dict[str, Any], **granted: Any) -> dict[str, Any]:
    body = json.dumps(document).encode()
    grant = grant_for(BY_NAME["v1_responses"], stream=False, **granted)
    exchange = Transcript("own", "/v1/responses", b"{}", 200, "application/json", body)
    return dict(json.loads(delivered(exchange, grant, [1, 50, 120])))


@pytest.mark.parametrize("requested", [None, 0, -1, 10_000])
def test_the_granted_cap_is_not_shown_as_that_of_the_caller(requested: int | None) -> None:
    text = {"type": "message", "content": [{"type": "output_text", "text": '"max_output_tokens":64,'}]}
    document = {"id": "r", "object": "response", "status": "completed", "output": [text], "max_output_tokens": 64,
                "max_tool_calls": None, "usage": {"input_tokens": 3, "output_tokens": 6}}  # fmt: skip
    shown = responses_answer(document, output_cap=64, requested_cap=requested)
    assert shown == {**document, "max_output_tokens": requested}
    assert responses_answer(document, output_cap=64, requested_cap=64) == document
    # A number that only begins with the cap is another one.
    assert responses_answer({**document, "max_output_tokens": 641}, output_cap=64)["max_output_tokens"] == 641


def test_every_event_of_a_recorded_stream_has_the_cap_of_the_caller() -> None:
    recorded = next(each for each in SUCCESSFUL if each.name == "v1_responses_stream")
    body = recorded.body.replace(b'"max_output_tokens":null', b'"max_output_tokens":64')
    exchange = Transcript("own", recorded.path, recorded.request, 200, recorded.content_type, body)
    grant = grant_of(exchange, output_cap=64)
    assert body.count(b"max_output_tokens") == 3
    assert delivered(exchange, grant, [7, 300, 900]) == recorded.body


# Every spelling of the name, and what may be around it.
PIECES = st.sampled_from(
    [
        *b'"model":"m:latest", "model":"m:latest" "Model":"m:latest", "model":"M:Latest"} "model": "model"'.split(),
        *(b"{", b"}", b",", b":", b'"', b" ", b"data: ", b"\n", b"\n\n", b"\r\n"),
    ]
)


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_the_first_name_of_each_line_is_replaced_in_any_spelling(data: bytes) -> None:
    pattern = re.compile(rb'("model"\s{0,8}:\s{0,8})"m:latest"(?=\s{0,8}[,}])', re.IGNORECASE)
    expected = b"\n".join(pattern.sub(rb'\1"own"', line, 1) for line in data.split(b"\n"))
    assert Echo("model", '"m:latest"', '"own"', framed=True).restore(data, False) == expected


@given(st.lists(PIECES, max_size=12), st.sets(st.integers(1, 12)))
def test_the_first_name_of_a_whole_body_is_replaced_in_any_spelling_wherever_the_pieces_are_cut(
    pieces: list[bytes], cuts: set[int]
) -> None:
    pattern = re.compile(rb'("model"\s{0,8}:\s{0,8})"m:latest"(?=\s{0,8}[,}])', re.IGNORECASE)
    expected = pattern.sub(rb'\1"own"', b"".join(pieces), 1)
    echo = Echo("model", '"m:latest"', '"own"', framed=False)
    edges = sorted({0, *(min(cut, len(pieces)) for cut in cuts), len(pieces)})
    passed = [echo.restore(b"".join(pieces[start:end]), False) for start, end in pairwise(edges)]
    assert b"".join([*passed, echo.restore(b"", True)]) == expected

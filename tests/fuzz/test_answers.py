"""Any answer in any chunks is counted once and within bounds, and clients can parse what they receive."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.fuzz.answers import frames_of, recorded
from tests.fuzz.claims import BackendAnswer, check_answer

NOISE = st.binary(max_size=6) | st.sampled_from(
    [b"\n", b"\r\n", b"\n\n", b"data: ", b"data: [DONE]\n\n", b": ping\n\n", b"event: x\n", b"null\n", b"data: 5\n\n",
     b'{"error":{"message":"x"}}\n', b'{"error":"out of memory"}\n', b'data: {"error":{"message":5}}\n\n',
     b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n', b"{}\n", b"\xe2\x80\xa8", b'{"done":true}\n']
)  # fmt: skip
TYPES = ["application/x-ndjson", "text/event-stream", "application/json; charset=utf-8", "text/html"]
STATUSES = st.sampled_from([200] * 12 + [204, 302, 400, 404, 500, 503])
COUNTS = st.sampled_from("0 1 -1 99 100 101 4.5 true null 9007199254740992 123456789012345678901234567890".split())


@st.composite
def _answer(draw: st.DrawFn) -> BackendAnswer:
    real = draw(st.sampled_from(recorded()))
    frames = list(frames_of(real.body, real.content_type))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(frames)))
        frames[place : place + draw(st.integers(0, 2))] = draw(
            st.lists(st.sampled_from(frames or [b""]) | NOISE, max_size=2)
        )
    body = b"".join(frames)
    if not draw(st.integers(0, 3)):
        count = draw(COUNTS).encode()
        body = re.sub(rb'(?<=_count":|tokens":)\d+', lambda _: count, body)
    if not draw(st.integers(0, 3)):
        body = body[: draw(st.integers(0, len(body)))]
    return replace(
        real,
        body=body,
        strip_usage=draw(st.booleans()),
        stream=draw(st.sampled_from([real.stream] * 5 + [not real.stream])),
        status=draw(st.just(real.status) | STATUSES),
        content_type=draw(st.sampled_from([real.content_type] * 5 + TYPES)),
        output_cap=draw(st.sampled_from([1, 3, 100, 100])),
    )


@settings(max_examples=300)
@given(_answer(), st.lists(st.integers(0, 2000), max_size=5))
def test_an_answer_is_the_same_in_any_chunks_and_counted_within_bounds(
    answered: BackendAnswer, cuts: list[int]
) -> None:
    event(check_answer(answered, cuts).outcome)

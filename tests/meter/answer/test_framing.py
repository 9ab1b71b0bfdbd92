from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.answer.framing import (
    FRAME_BYTES_MAX,
    Frame,
    FrameTooLong,
    NdjsonSplitter,
    Splitter,
    SseSplitter,
    with_payload,
)

SPLITTERS: list[Callable[[int], Splitter]] = [NdjsonSplitter, SseSplitter]

# Bytes in which every boundary and every near miss of one is likely.
WIRE = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"data:", b"data: ", b":", b"event: x", b"{}", b"a"])
    | st.binary(max_size=4)
).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def split(splitter: Splitter, chunks: list[bytes]) -> list[Frame]:
    return [frame for chunk in chunks for frame in splitter.feed(chunk)] + splitter.flush()


@pytest.mark.parametrize("new", SPLITTERS)
@given(WIRE, st.lists(st.integers(0, 1000), max_size=8))
def test_the_frames_are_the_same_wherever_the_bytes_are_cut_and_join_to_the_input(
    new: Callable[[int], Splitter], data: bytes, places: list[int]
) -> None:
    frames = split(new(1000), cut(data, places))
    assert frames == split(new(1000), [data])
    assert frames == split(new(1000), [bytes([byte]) for byte in data])
    assert b"".join(frame.raw for frame in frames) == data


@pytest.mark.parametrize("new", SPLITTERS)
@given(WIRE, st.lists(st.integers(0, 1000), max_size=8), st.integers(1, 12))
def test_no_frame_is_longer_than_the_limit_and_no_byte_is_lost_when_one_would_be(
    new: Callable[[int], Splitter], data: bytes, places: list[int], limit: int
) -> None:
    splitter, seen, fed = new(limit), list[Frame](), b""
    for chunk in cut(data, places):
        fed += chunk
        try:
            seen += splitter.feed(chunk)
        except FrameTooLong as too_long:
            seen += too_long.frames
            assert b"".join(frame.raw for frame in seen) + too_long.held == fed
            assert len(too_long.held) > limit
            break
    else:
        seen += splitter.flush()
        assert b"".join(frame.raw for frame in seen) == data
    assert all(len(frame.raw) <= limit for frame in seen)
    assert splitter.flush() == []


def test_a_json_line_is_its_payload_with_any_line_ending() -> None:
    frames = split(NdjsonSplitter(), [b'{"a":1}\n{"b":2}\r\n\n{"c":3}'])
    assert [frame.data for frame in frames] == [b'{"a":1}', b'{"b":2}', b"", b'{"c":3}']


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_event_ends_at_a_blank_line_and_only_its_data_lines_are_its_payload(end: bytes) -> None:
    stream = end.join(
        [b": keep-alive", b"", b"event: x", b"data: one", b"id: 7", b"data:two", b"data:  three", b"", b""]
    )
    frames = split(SseSplitter(), [stream])
    assert [frame.data for frame in frames] == [b"", b"one\ntwo\n three"]


def test_the_data_of_an_event_is_replaced_and_its_other_lines_stay() -> None:
    event = b"event: x\r\ndata: one\r\nid: 7\r\ndata: two\r\n\r\n"
    assert with_payload(event, b"{}") == b"event: x\r\ndata: {}\r\nid: 7\r\n\r\n"
    assert with_payload(b"data:one\n\n", b"{}") == b"data: {}\n\n"


def test_the_data_of_an_event_with_the_maximum_of_lines_is_replaced_in_linear_time() -> None:
    event = b"data: one\n" + b"data:\n" * (FRAME_BYTES_MAX // 6) + b"\n"
    assert with_payload(event, b"{}") == b"data: {}\n\n"

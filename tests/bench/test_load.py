from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import upstream as upstream_program
from bench.load.generator import run
from bench.load.job import BEGIN, END, Group, Job, percentile
from bench.load.messages import STAMP, chunk, end_of, is_complete, request
from bench.sides.side import Side
from bench.sides.upstream import upstream
from bench.workloads import body

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


def closed(side: Side, group: Group, **changes: float) -> Job:
    return Job(side.host, side.port, [group], **{"seconds": 10.0, "warm_up_s": 0.0, **changes})  # type: ignore[arg-type]


def test_a_closed_loop_counts_each_response_and_reports_both_ends(side: Side) -> None:
    reports: list[str] = []
    job = closed(side, Group(2, "/api/chat", body("Hello", stream=False)), responses_max=20)
    (group,) = run(job, reports.append).groups
    assert (group.units, group.errors, group.statuses) == (20, 0, {"200": 20})
    assert group.p50_us is not None
    assert group.p99_us is not None
    assert 0 < group.p50_us <= group.p99_us
    assert reports == [BEGIN, END]


def test_a_response_with_another_status_is_an_error_and_no_unit(side: Side) -> None:
    job = closed(
        side, Group(1, "/api/chat", body("Hello", stream=False), expected=(401,)), responses_max=3, seconds=0.2
    )
    (group,) = run(job, lambda _: None).groups
    assert (group.units, group.errors) == (0, 3)


def test_a_body_of_several_mebibytes_is_sent_and_answered(side: Side) -> None:
    job = closed(side, Group(2, "/api/chat", body("word " * 1_000_000, stream=False)), responses_max=4)
    (group,) = run(job, lambda _: None).groups
    assert (group.units, group.errors) == (4, 0)


def test_every_stream_arrives_whole_and_the_measured_chunks_have_an_age(side: Side) -> None:
    job = Job(side.host, side.port, [Group(5, "/api/chat", body("chunks=20", stream=True))], 0.2, 0.2, streams=True)
    (group,) = run(job, lambda _: None).groups
    assert (group.complete, group.errors) == (5, 0)
    assert 0 < group.units <= 5 * 20
    assert group.p50_us is not None
    # An age that is taken from anything but the stamp would be a random number of 32 bits.
    assert group.p50_us < 60_000_000


def test_the_generator_program_prints_the_ends_of_the_measured_time_and_the_result(side: Side) -> None:
    group = {"connections": 1, "path": "/api/chat", "body": body("Hello", stream=False)}
    job = {"host": side.host, "port": side.port, "groups": [group], "seconds": 5, "warm_up_s": 0, "responses_max": 2}
    command = [sys.executable, "-S", "-m", "bench.load.generator"]
    done = subprocess.run(command, input=json.dumps(job) + "\n", capture_output=True, text=True, check=True, cwd=ROOT)
    begin, end, result = done.stdout.splitlines()
    assert (begin, end) == (BEGIN, END)
    assert json.loads(result)["groups"][0]["units"] == 2


def test_the_length_of_a_message_is_known_from_its_header() -> None:
    message = request("/api/chat", "host", {"Authorization": "Bearer key"}, b"{}")
    assert end_of(message) == len(message)
    assert end_of(message[:10]) == 0
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"data")
    assert end_of(chunked) is None
    assert not is_complete(chunked, None)
    assert is_complete(chunked + b"0\r\n\r\n", None)


@pytest.mark.parametrize("text", ['"content":"0123abcd"', '"delta":{"content": "0123abcd"}'])
def test_a_stamp_is_found_in_both_dialects(text: str) -> None:
    match = STAMP.search(text.encode())
    assert match
    assert match[1] == b"0123abcd"


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert [percentile(range(1, 101), percent) for percent in (50, 99)] == [50, 99]
    assert percentile([], 50) is None


def test_the_constant_answers_name_the_model_that_the_chats_request() -> None:
    tags = upstream_program._CONSTANT[b"/api/tags"]
    assert [row["name"] for row in tags["models"]] == [upstream_program.MODEL]  # type: ignore[index]

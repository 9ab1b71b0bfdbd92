"""Many streams that are open at once, with default settings, and then break off at the same moment.

The backend of one half is killed, and the callers of the other half disconnect. Each row names the side that ended its
stream. `make streams` runs it with STREAMS streams and prints the memory per stream of each process.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.wire.names import REQUEST_ID_HEADER
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.meter_logs import unknown_causes
from tests.e2e.open_streams import StreamOpener, check_broken_off, disconnect, stream_opener
from tests.e2e.stack import Simulator, Stack, backends, simulator, up
from tests.ports import free_port

STREAMS = int(os.environ.get("STREAMS", "200"))
# All streams together, so that their frames cost the same at any number of streams. An answer begins with its first
# frame.
FRAMES_PER_S = 500
WARM_UP_STREAMS = 100
SETTLED_TIMEOUT_S = 180.0
# Of Envoy, in addition to two connections per stream.
OPEN_FILES_SPARE = 1000
MEASURED = ("authz", "meter", "envoy", "control", "redis")
# Each replaces a limit that is lower by default.
SETTINGS = {
    "OLLAMA_MAX_CONNECTIONS": str(max(STREAMS, WARM_UP_STREAMS)),
    "DEFAULT_CONCURRENT": str(STREAMS + WARM_UP_STREAMS),
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
}


@dataclass(frozen=True)
class Half:
    """The streams that one side ends: the model that only its backend hosts, and the row that each must get."""

    name: str
    model: str
    expected: tuple[str, str | None, int]


BY_BACKEND = Half("broken by the backend", "gemma3:270m", ("upstream_error", "backend_error", 200))
BY_CALLER = Half("broken by the caller", "llama3.2:latest", ("client_gone", None, 200))
HALVES = (BY_BACKEND, BY_CALLER)


@dataclass(frozen=True)
class Stream:
    """An open stream."""

    half: Half
    answer: aiohttp.ClientResponse

    @property
    def request_id(self) -> str:
        """The key of its row."""
        return self.answer.headers[REQUEST_ID_HEADER]


async def open_streams(opener: StreamOpener, count: int) -> list[Stream]:
    """Opens `count` streams, alternately of both halves."""
    halves = [HALVES[index % len(HALVES)] for index in range(count)]
    answers = await opener.open([half.model for half in halves])
    return [Stream(half, answer) for half, answer in zip(halves, answers, strict=True)]


def answers_of(streams: Sequence[Stream], half: Half) -> list[aiohttp.ClientResponse]:
    return [stream.answer for stream in streams if stream.half is half]


async def count_rows(ledger_view: LedgerView, streams: Sequence[Stream]) -> dict[str, Counter[tuple[object, ...]]]:
    """The rows of each half, by outcome, code and status."""
    rows = await ledger_view.wait_for_rows({stream.request_id for stream in streams})
    counted = {half.name: Counter[tuple[object, ...]]() for half in HALVES}
    for stream in streams:
        for row in rows.get(stream.request_id, []):
            assert row["output_tokens"] > 0
            counted[stream.half.name][row["outcome"], row["code"], row["status"]] += 1
    return counted


def memory_bytes(stack: Stack) -> dict[str, int]:
    """The proportional set size of each process, whose sum counts shared memory once. Source: proc_pid_smaps(5)."""
    sizes = {}
    for name in stack.names():
        if name.startswith(MEASURED):
            (pid,) = stack.pids(name)
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes[name] = 1024 * int(rollup.partition("\nPss:")[2].split()[0])
    return sizes


def print_memory(before: dict[str, int], during: dict[str, int], after: dict[str, int]) -> None:
    print(f"{'memory (PSS)':12}{'before MiB':>12}{'open MiB':>12}{'after MiB':>12}{'KiB per stream':>16}")  # noqa: T201
    for name, size in before.items():
        sizes = "".join(f"{each / 2**20:12.1f}" for each in (size, during[name], after[name]))
        print(f"{name:12}{sizes}{(during[name] - size) / 1024 / STREAMS:16.2f}")  # noqa: T201


@contextmanager
def open_files_limit(count: int) -> Iterator[None]:
    """Raises the limit of this process and of those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or count <= hard, f"{STREAMS} streams need ulimit -Hn {count}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def running(state_dir: Path) -> Iterator[tuple[Stack, Simulator]]:
    """The stack with one backend for each half, and the backend of BY_BACKEND."""
    pace = ("--tokens-per-s", str(min(1.0, FRAMES_PER_S / STREAMS)), "--models")
    here = ("--listen", f"127.0.0.1:{free_port()}")
    with (
        simulator(*pace, BY_BACKEND.model) as killed,
        simulator(*pace, BY_CALLER.model) as remaining,
        up(state_dir, *here, **backends(killed=killed.url, remaining=remaining.url), **SETTINGS) as stack,
    ):
        yield stack, killed


async def test_each_row_names_the_side_that_ended_its_stream(tmp_path: Path) -> None:
    print(f"\n{STREAMS} streams; OLLAMA_MAX_CONNECTIONS is 64 by default; changed settings: {SETTINGS}")  # noqa: T201
    with open_files_limit(2 * STREAMS + OPEN_FILES_SPARE), running(tmp_path / "state") as (stack, backend):
        key = stack.new_key("streams")
        async with stream_opener(stack.url, key) as opener, open_ledger_view(stack) as ledger_view:
            disconnect([stream.answer for stream in await open_streams(opener, WARM_UP_STREAMS)])
            await ledger_view.wait_until_settled()
            before = memory_bytes(stack)
            started = time.monotonic()
            streams = await open_streams(opener, STREAMS)
            during = memory_bytes(stack)
            print(f"all open after {time.monotonic() - started:.0f} s; 503 answers: {opener.retried}")  # noqa: T201
            started = time.monotonic()
            backend.process.kill()
            disconnect(answers_of(streams, BY_CALLER))
            await check_broken_off(answers_of(streams, BY_BACKEND))
            await ledger_view.wait_until_settled(SETTLED_TIMEOUT_S)
            print(f"all settled {time.monotonic() - started:.1f} s after they broke off")  # noqa: T201
            counted = await count_rows(ledger_view, streams)
        after = memory_bytes(stack)
    for half in HALVES:
        print(f"rows of streams {half.name}: {dict(counted[half.name])}")  # noqa: T201
    print_memory(before, during, after)
    assert counted == {half.name: {half.expected: len(answers_of(streams, half))} for half in HALVES}
    assert unknown_causes(stack) == []

"""`python -m bench.overhead`: sends the same requests to a simulated Ollama directly and through the gateway.

The simulated Ollama, the client and the gateway share the machine's cores, and the first two are Python. The direct
measurements therefore do not describe Ollama. They are the baseline for the gateway's measurements of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

import aiohttp
from rich import box
from rich.console import Console
from rich.table import Table

from bench.stack import BenchFailed, MeasuredStack, running

MODEL = "llama3.2:latest"
CHATS_AT_ONCE = 16
CHAT_TOKENS = 8
STREAMS = 40
# Not every token has a separate frame. Both sides must deliver the same number of frames.
STREAM_TOKENS = 100
STREAM_TOKENS_PER_S = 25.0
WARM_UP_S = 1.0
_TIMEOUT = aiohttp.ClientTimeout(total=60.0, connect=5.0)

Measurements = dict[str, float]
"""Values by name. The names of times end with their unit."""


@dataclass(frozen=True)
class Target:
    """The destination of one side's requests. `session` sends the key, if the side needs one."""

    url: str
    session: aiohttp.ClientSession

    def chat(self, *, stream: bool) -> aiohttp.client._RequestContextManager:
        """Sends a chat on Ollama's native surface."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "How are you?"}], "stream": stream}
        return self.session.post(f"{self.url}/api/chat", json=body)


@dataclass(frozen=True)
class StreamTiming:
    """One streamed answer: the seconds to its first frame, and for each frame the seconds since Ollama created it."""

    first_frame_s: float
    frames_s: Sequence[float]
    complete: bool


async def chats(target: Target, seconds: float) -> Measurements:
    """Measures short complete answers for `seconds`, with CHATS_AT_ONCE clients that send without a pause."""
    durations_s: list[float] = []
    started = time.perf_counter()

    async def client() -> None:
        while (sent := time.perf_counter()) < started + seconds:
            async with target.chat(stream=False) as answer:
                await _expect_ok(answer)
                await answer.read()
            durations_s.append(time.perf_counter() - sent)

    await asyncio.gather(*(client() for _ in range(CHATS_AT_ONCE)))
    per_s = len(durations_s) / (time.perf_counter() - started)
    return {"requests": len(durations_s), "requests_per_s": per_s, **_percentiles_ms("latency", durations_s)}


async def streams(target: Target, at_once: int) -> Measurements:
    """Measures `at_once` concurrent streams of STREAM_TOKENS tokens, at the pace of the simulated Ollama."""
    answers = await asyncio.gather(*(_stream(target) for _ in range(at_once)))
    return {
        **_percentiles_ms("first_frame", [answer.first_frame_s for answer in answers]),
        **_percentiles_ms("frame", [each for answer in answers for each in answer.frames_s]),
        "complete": sum(answer.complete for answer in answers),
        "frames": sum(len(answer.frames_s) for answer in answers),
    }


async def _stream(target: Target) -> StreamTiming:
    sent = time.time()
    async with target.chat(stream=True) as answer:
        await _expect_ok(answer)
        arrived = [(time.time(), line) async for line in answer.content]
    # Parsed afterwards, so that the client's own work does not delay the frames it times.
    frames = [(at, json.loads(line)) for at, line in arrived]
    if not frames or "error" in frames[-1][1]:
        raise BenchFailed(f"a stream ended with {frames[-1][1] if frames else 'no frame'}")
    created = [datetime.fromisoformat(frame["created_at"]).timestamp() for _, frame in frames]
    late_s = [at - since for (at, _), since in zip(frames, created, strict=True)]
    return StreamTiming(frames[0][0] - sent, late_s, bool(frames[-1][1].get("done")))


async def measure(
    stack: MeasuredStack, seconds: float, rounds: int, streams_at_once: int, report: Callable[[str], None]
) -> dict[str, object]:
    """Returns the document that `--json` prints. Raises BenchFailed if a request fails."""
    whole: dict[str, list[Measurements]] = {"direct": [], "gateway": []}
    streamed: dict[str, list[Measurements]] = {"direct": [], "gateway": []}
    cpu_us: list[Measurements] = []
    frame_cpu_us: list[Measurements] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, connector_owner=False) as open_session,
        aiohttp.ClientSession(
            timeout=_TIMEOUT, connector=connector, headers={"Authorization": f"Bearer {stack.key}"}
        ) as keyed_session,
    ):
        targets = {"direct": Target(stack.ollama_url, open_session), "gateway": Target(stack.url, keyed_session)}
        await _set_behaviour(targets["direct"], CHAT_TOKENS, 0.0)
        report("warming up")
        for target in targets.values():
            await chats(target, WARM_UP_S)
        for number in range(1, rounds + 1):
            report(f"round {number} of {rounds}")
            await _set_behaviour(targets["direct"], CHAT_TOKENS, 0.0)
            for side, target in targets.items():
                before = stack.cpu_us()
                measured = await chats(target, seconds)
                whole[side].append(measured)
                if side == "gateway":
                    cpu_us.append(_spent(before, stack.cpu_us(), measured["requests"]))
            await _set_behaviour(targets["direct"], STREAM_TOKENS, STREAM_TOKENS_PER_S)
            for side, target in targets.items():
                before = stack.cpu_us()
                measured = await streams(target, streams_at_once)
                streamed[side].append(measured)
                if side == "gateway":
                    frame_cpu_us.append(_spent(before, stack.cpu_us(), measured["frames"]))
    return {
        "setup": {
            "cores": os.cpu_count(),
            "seconds": seconds,
            "rounds": rounds,
            "processes": {kind: sum(name.startswith(kind) for name in stack.pids) for kind in cpu_us[0]},
            "chats_at_once": CHATS_AT_ONCE,
            "streams": streams_at_once,
            "tokens_per_stream": STREAM_TOKENS,
            "tokens_per_s": STREAM_TOKENS_PER_S,
        },
        "chats": _sides(whole),
        "streams": _sides(streamed),
        "cpu_us_per_request": _medians(cpu_us),
        "cpu_us_per_frame": _medians(frame_cpu_us),
    }


def _spent(before: Measurements, after: Measurements, units: float) -> Measurements:
    return {service: (after[service] - before[service]) / units for service in after}


async def _set_behaviour(ollama: Target, answer_tokens: int, tokens_per_s: float) -> None:
    behaviour = {"answer_tokens": answer_tokens, "tokens_per_s": tokens_per_s}
    async with ollama.session.put(f"{ollama.url}/_sim/behaviour", json=behaviour) as answer:
        await _expect_ok(answer)


async def _expect_ok(answer: aiohttp.ClientResponse) -> None:
    if not answer.ok:
        raise BenchFailed(f"{answer.url} answered {answer.status}: {(await answer.text())[:300]}")


def _percentiles_ms(name: str, durations_s: Iterable[float]) -> Measurements:
    """The nearest-rank percentiles 50 and 99."""
    ordered = sorted(durations_s)
    return {f"{name}_p{p}_ms": ordered[math.ceil(len(ordered) * p / 100) - 1] * 1000 for p in (50, 99)}


def _medians(measured: Sequence[Measurements]) -> Measurements:
    return {name: round(median(each[name] for each in measured), 3) for name in measured[0]}


def _sides(measured: Mapping[str, Sequence[Measurements]]) -> dict[str, Measurements]:
    """The medians of both sides, their `ratio` (gateway/direct), and the difference of the times as `added_ms`."""
    direct, gateway = _medians(measured["direct"]), _medians(measured["gateway"])
    ratio = {name: round(gateway[name] / value, 3) for name, value in direct.items() if value}
    added = {name: round(gateway[name] - value, 3) for name, value in direct.items() if name.endswith("_ms")}
    return {"direct": direct, "gateway": gateway, "ratio": ratio, "added_ms": added}


def table(document: Mapping[str, object]) -> Table:
    """The document as a table for the terminal."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Medians of the rounds", title_justify="left")
    shown.add_column("measure")
    for column in ("direct", "gateway", "gateway/direct", "added ms"):
        shown.add_column(column, justify="right")
    for part in ("chats", "streams"):
        sides = document[part]
        assert isinstance(sides, dict)  # noqa: S101 (narrows the document's type)
        for name, value in sides["direct"].items():
            ratio, added = sides["ratio"].get(name), sides["added_ms"].get(name)
            cells = (value, sides["gateway"][name], ratio, added)
            shown.add_row(f"{part}: {name}", *("" if cell is None else f"{cell:,.2f}" for cell in cells))
        shown.add_section()
    for part, unit in (("cpu_us_per_request", "chat"), ("cpu_us_per_frame", "frame")):
        cpu_us = document[part]
        assert isinstance(cpu_us, dict)  # noqa: S101
        for service, value in cpu_us.items():
            shown.add_row(f"CPU µs per {unit}: {service}", "", f"{value:,.0f}", "", "")
    return shown


def main() -> int:
    """Measures and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    parser = argparse.ArgumentParser("python -m bench.overhead", description="Measures the cost of the gateway.")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round of short chats")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="workers each of authz and meter")
    parser.add_argument("--streams", type=int, default=STREAMS, help="streams at once")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.seconds, arguments.workers, arguments.streams) <= 0:
        parser.error("all numbers must be positive")
    # Exits the contexts, which stop all programs that were started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        errors.print("starting the stack")
        with running(arguments.workers) as stack:
            document = asyncio.run(measure(stack, arguments.seconds, arguments.rounds, arguments.streams, errors.print))
    except (BenchFailed, aiohttp.ClientError, TimeoutError) as failed:
        errors.print(str(failed) or type(failed).__name__)
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        Console(highlight=False).print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The claims as functions of bytes, for atheris or for random inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.wire.surfaces import SURFACES
from tests.fuzz.answers import recorded
from tests.fuzz.claims import check_answer, check_request
from tests.fuzz.http2 import check_connection, conversations
from tests.fuzz.test_requests import (
    test_the_gateway_and_the_backend_read_every_body_in_the_same_way as shaped,
)
from tests.meter.wire_corpus import transcripts

CORPUS = Path(__file__).parent / "corpus"
# Longer inputs find nothing more. Answers are shorter because each one is delivered in several ways.
BYTES_MAX = {"requests": 4096, "shaped-requests": 4096, "answers": 512, "http2": 4096}


def requests(data: bytes) -> None:
    """Input: a digit that selects the surface, then a request body."""
    surface = SURFACES[(data[0] - ord("0")) % len(SURFACES)] if data else SURFACES[0]
    for runner_options in (False, True):
        check_request(surface, data[1:], runner_options=runner_options)


def shaped_requests(data: bytes) -> None:
    """Input: the choices of the Hypothesis strategies, so that the bodies are based on valid JSON."""
    shaped.hypothesis.fuzz_one_input(data)  # type: ignore[attr-defined]


def answers(data: bytes) -> None:
    """Input: one byte that selects a recorded exchange, one byte that selects the grant, then the body of an answer."""
    known = recorded()
    first, second = data[:2] if len(data) > 1 else (0, 0)
    answered = replace(
        known[first % len(known)],
        body=data[2:],
        stream=bool(second & 1),
        strip_usage=bool(second & 2),
        output_cap=3 if second & 4 else 100,
    )
    check_answer(answered, [second, first * 7])


def http2(data: bytes) -> None:
    """Input: one byte that selects how the bytes arrive, then what a peer sends after the preface of HTTP/2."""
    first = data[0] if data else 0
    check_connection(data[1:], step=1 + (first >> 1) ** 2, pauses=bool(first & 1))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "requests": requests,
    "shaped-requests": shaped_requests,
    "answers": answers,
    "http2": http2,
}


def seeds(target: str) -> list[bytes]:
    """The initial inputs: the recorded exchanges, and the inputs that once broke a claim."""
    corpus = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    match target:
        case "requests":
            return corpus + [b"%d%b" % (SURFACES.index(one.surface), one.request) for one in transcripts()]
        case "answers":
            indexed = enumerate(recorded())
            return corpus + [bytes([at, 1 + 2 * strip]) + one.body for at, one in indexed for strip in (0, 1)]
        case "http2":
            return corpus + [bytes([how]) + each for each in conversations() for how in (0, 7, 127)]
        case _:
            # The strategies draw their choices from these bytes. Any bytes result in a body.
            rng = random.Random(0)  # noqa: S311
            return corpus + [rng.randbytes(1024) for _ in range(50)]

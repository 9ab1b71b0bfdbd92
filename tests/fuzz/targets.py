"""The claims as functions of bytes, for whoever makes bytes: atheris, or chance where there is no atheris."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.wire.surfaces import SURFACES
from tests.fuzz.answers import recorded
from tests.fuzz.claims import check_answer, check_request
from tests.fuzz.test_requests import (
    test_no_body_is_read_one_way_at_the_gateway_and_another_way_at_the_backend as shaped,
)
from tests.meter.wire_corpus import transcripts

CORPUS = Path(__file__).parent / "corpus"
# Longer inputs find nothing that shorter ones do not; an answer is delivered in many ways.
BYTES_MAX = {"requests": 4096, "shaped-requests": 4096, "answers": 512}


def requests(data: bytes) -> None:
    """A digit that chooses the surface, then a request body."""
    surface = SURFACES[(data[0] - ord("0")) % len(SURFACES)] if data else SURFACES[0]
    for runner_options in (False, True):
        check_request(surface, data[1:], runner_options=runner_options)


def shaped_requests(data: bytes) -> None:
    """The choices of the Hypothesis strategies, so that bodies are JSON to begin with."""
    shaped.hypothesis.fuzz_one_input(data)  # type: ignore[attr-defined]


def answers(data: bytes) -> None:
    """Two letters, then the body of an answer: which exchange of the corpus it stands for, and what was granted."""
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


TARGETS: dict[str, Callable[[bytes], None]] = {
    "requests": requests,
    "shaped-requests": shaped_requests,
    "answers": answers,
}


def seeds(target: str) -> list[bytes]:
    """What to begin with: the recorded exchanges, and the inputs that once broke a claim."""
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    match target:
        case "requests":
            return kept + [b"%d%b" % (SURFACES.index(one.surface), one.request) for one in transcripts()]
        case "answers":
            indexed = enumerate(recorded())
            return kept + [bytes([at, 1 + 2 * strip]) + one.body for at, one in indexed for strip in (0, 1)]
        case _:
            # Choices are drawn from these; any bytes are a body.
            chance = random.Random(0)  # noqa: S311
            return kept + [chance.randbytes(1024) for _ in range(50)]

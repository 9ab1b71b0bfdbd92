"""The simulated Ollama answers as the real one did when it was recorded."""

from pathlib import Path

import pytest

from ops.simulator.app import SimulatorOptions, run_simulator
from ops.simulator.control.behaviour import Behaviour
from tests.ops.simulator.raw_http import exchange
from tests.recordings.comparison import differences
from tests.recordings.recording import FILES, MODELS, Answer, Recording, read

UNEQUAL = {
    "v1_chat_json_schema": "the recorded model writes more than its cap into the object, the simulated one ends it",
}
"""Recordings that cannot be equal, with the reason."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one(file: Path) -> None:
    recording = read(file)
    found = differences(recording.answer, await _answer(recording), was_cut=recording.was_cut)
    assert bool(found) == (file.stem in UNEQUAL), "\n".join(found)


def test_every_unequal_recording_exists_and_has_a_reason() -> None:
    assert UNEQUAL.keys() <= {file.stem for file in FILES}
    assert all(len(reason) > 20 for reason in UNEQUAL.values())


# Recordings in which the model wrote until it was stopped.
_LONG_ANSWERS = {"chat_predict_0"}


async def _answer(recording: Recording) -> Answer:
    answer_tokens = 1000 if recording.name in _LONG_ANSWERS else None
    behaviour = Behaviour(version="0.0.0", answer_tokens=answer_tokens)
    async with run_simulator(SimulatorOptions(port=0, behaviour=behaviour)) as server:
        server.simulator.library.replace_all(MODELS)
        reply = await exchange(server.url, recording.request)
    parts = reply.chunks if reply.chunks is not None else [reply.body] if reply.body else []
    return Answer(reply.status, reply.header_lines, tuple(part.decode() for part in parts))

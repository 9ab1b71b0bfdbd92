"""A simulated Ollama on loopback for each test."""

from collections.abc import AsyncIterator

import pytest

from ops.simulator.app import RunningSimulator, SimulatorOptions, run_simulator


@pytest.fixture
async def server() -> AsyncIterator[RunningSimulator]:
    async with run_simulator(SimulatorOptions(port=0)) as started:
        yield started

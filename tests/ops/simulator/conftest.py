from collections.abc import AsyncIterator

import pytest

from ops.simulator.app import RunningSimulator, SimulatorOptions, run_simulator


@pytest.fixture
async def server() -> AsyncIterator[RunningSimulator]:
    """A simulated Ollama on loopback."""
    async with run_simulator(SimulatorOptions(port=0)) as running:
        yield running

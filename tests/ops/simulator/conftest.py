"""A simulated Ollama on loopback for each test."""

from collections.abc import AsyncIterator

import pytest

from ops.simulator.app import Options, Running, running


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running(Options(port=0)) as started:
        yield started

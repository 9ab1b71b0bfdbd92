"""What a service process does before it serves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from gateway.service import lifecycle
from gateway.settings import Settings


@pytest.fixture(autouse=True)
def unfrozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lifecycle, "load", Settings)
    monkeypatch.setattr(lifecycle, "configure", lambda *_: None)
    yield
    gc.unfreeze()


def test_the_collector_never_visits_what_was_imported() -> None:
    frozen = []

    async def serve(_: Settings, stop: asyncio.Event) -> None:
        assert not stop.is_set()
        frozen.append(gc.get_freeze_count())

    assert lifecycle.run("meter", serve) == 0
    assert frozen[0] > 10_000

"""What a line of the log has."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from gateway.service import logs
from gateway.settings import Settings


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    written = io.StringIO()
    logs.configure(Settings(), "meter", written)
    yield written
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_long_value_is_shortened_and_an_entry_is_complete(stream: io.StringIO) -> None:
    long = "x" * (logs.VALUE_CHARACTERS_MAX + 1)
    structlog.get_logger().error("reject_not_stored", entry=long, reason=long)
    line = json.loads(stream.getvalue())
    assert (line["service"], line["entry"], line["reason"]) == ("meter", long, long[:-1] + "…")

"""Structured logs on stderr: one bounded line per event, without secrets, prompts and answers."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from gateway.service.log_limit import LineLimit
from gateway.settings import Settings

VALUE_CHARACTERS_MAX = 500
# Its value is the only copy of a ledger entry, so it is logged completely.
ENTRY_FIELD = "entry"


def _bounded(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > VALUE_CHARACTERS_MAX and key != ENTRY_FIELD:
            event[key] = value[:VALUE_CHARACTERS_MAX] + "…"
    return event


def configure(settings: Settings, service: str, stream: TextIO | None = None) -> None:
    """Configures logging for the whole process. Every line contains `service`."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.gateway_log_format == "json"
        else structlog.dev.ConsoleRenderer()
    )
    level = logging.getLevelNamesMapping()[settings.gateway_log_level]
    logging.basicConfig(level=max(level, logging.WARNING), stream=stream or sys.stderr, format="%(name)s %(message)s")
    structlog.configure(
        processors=[
            LineLimit(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _bounded,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)

"""Structured logs on stderr: one bounded line per event, without secrets, prompts and answers."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from functools import partial
from types import TracebackType
from typing import Any, TextIO

import structlog

from gateway.service.log_limit import LineLimit
from gateway.service.log_redaction import Redaction, secrets_of
from gateway.settings import Settings

VALUE_CHARACTERS_MAX = 500
# Its value is the only copy of a ledger entry, so it is logged completely.
ENTRY_FIELD = "entry"


def _bounded(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > VALUE_CHARACTERS_MAX and key != ENTRY_FIELD:
            event[key] = value[:VALUE_CHARACTERS_MAX] + "…"
    return event


class RedactedFormatter(logging.Formatter):
    """Formats the records of libraries, tracebacks included, without secrets."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__("%(name)s %(message)s")
        self._redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return self._redaction.text(super().format(record))


def print_uncaught(
    redaction: Redaction,
    stream: TextIO,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Prints the exception that ends the process, as Python does, without secrets."""
    stream.write(redaction.text("".join(traceback.format_exception(kind, error, trace))))


def configure(settings: Settings, service: str, stream: TextIO | None = None) -> None:
    """Configures logging for the whole process. Every line contains `service`."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.gateway_log_format == "json"
        else structlog.dev.ConsoleRenderer()
    )
    level = logging.getLevelNamesMapping()[settings.gateway_log_level]
    redaction = Redaction(secrets_of(settings))
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(RedactedFormatter(redaction))
    sys.excepthook = partial(print_uncaught, redaction, stream or sys.stderr)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    structlog.configure(
        processors=[
            LineLimit(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            # Before a value is cut, because the rest of a secret would not be recognised.
            redaction,
            _bounded,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)

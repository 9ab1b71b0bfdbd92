"""The injected faults that a handler raises itself, with Ollama's error messages."""

from __future__ import annotations

from http import HTTPStatus

from ops.simulator.control.behaviour import FaultKind
from ops.simulator.dialects.errors import ApiError
from ops.simulator.handlers.exchange import Exchange

RUNNER_CRASHED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
STREAM_BROKEN = "an error was encountered while running the model: unexpected EOF"
SERVER_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_MESSAGES = {499: "request canceled", 500: RUNNER_CRASHED, 503: SERVER_BUSY}


def raise_injected_status(exchange: Exchange) -> None:
    """Raises the ApiError of a `status` fault, with Ollama's message where it has one for the status."""
    fault = exchange.faults.get("status")
    if fault is not None:
        message = fault.message or _MESSAGES.get(fault.status) or HTTPStatus(fault.status).phrase.lower()
        raise ApiError(fault.status, message)


def raise_injected_crash(exchange: Exchange) -> None:
    """Raises the ApiError of an `error` fault: the runner crashed before the response began."""
    if "error" in exchange.faults:
        raise ApiError(500, RUNNER_CRASHED)


def is_due(exchange: Exchange, kind: FaultKind, default_after_frames: int) -> bool:
    """Whether a fault of this kind takes effect after the frames that are already sent."""
    fault = exchange.faults.get(kind)
    if fault is None:
        return False
    return exchange.record.frames >= (default_after_frames if fault.after_frames is None else fault.after_frames)

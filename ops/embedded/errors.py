"""Errors that keep the embedded stack from starting."""

from __future__ import annotations

from gateway.errors import GatewayError


class StackError(GatewayError):
    """The stack cannot start. The text is one sentence with the remedy."""


class ChildFailed(StackError):
    """A child did not become ready. `log_tail` has the last lines of its log, oldest first."""

    def __init__(self, name: str, reason: str, log_tail: tuple[str, ...] = ()) -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        super().__init__(f"{name} {reason}")

"""How an answer ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.values import Outcome, Usage


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """The outcome of an answer with its error code and usage; the usage of an error has the source `none`.

    `is_presumed` marks an answer that broke off before it was complete. The caller is presumed to have left, and only
    Envoy's access log records whether it was the backend.
    """

    outcome: Outcome
    code: str | None
    usage: Usage
    is_presumed: bool = False

"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ANSWER_TIMEOUT_S = 5.0
"""Seconds that a server has to answer one request of a check."""

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """The part that was checked, its status, the details, and how to fix it. No text holds a secret."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Check:
    """The part works as it should."""
    return Check(name, "ok", detail)


def warning(name: str, detail: str, remedy: str) -> Check:
    """The part works, with a problem that should be fixed."""
    return Check(name, "warning", detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """The part does not work."""
    return Check(name, "failed", detail, remedy)

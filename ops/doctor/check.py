"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ANSWER_TIMEOUT_S = 5.0
"""How long a part has to answer one question."""

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what to do about it. No text holds a secret."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Check:
    """All is well."""
    return Check(name, "ok", detail)


def warning(name: str, detail: str, remedy: str) -> Check:
    """It works, but not as it should."""
    return Check(name, "warning", detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """It does not work."""
    return Check(name, "failed", detail, remedy)

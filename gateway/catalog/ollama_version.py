"""Versions of Ollama as `/api/version` says them, compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable

# Backends below it are served all the same, and reported.
OLDEST_SUPPORTED = "0.17.1"


def numbers(version: str) -> tuple[int, ...]:
    """`0.17.1-rc0` -> (0, 17, 1); what is no number counts as 0."""
    parts = version.partition("-")[0].split(".")
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in parts)


def lowest(versions: Iterable[str]) -> str | None:
    """The lowest of the versions, None without any."""
    return min(versions, key=numbers, default=None)


def is_too_old(version: str | None) -> bool:
    """Whether it is below OLDEST_SUPPORTED. A version nobody said is not."""
    return version is not None and numbers(version) < numbers(OLDEST_SUPPORTED)

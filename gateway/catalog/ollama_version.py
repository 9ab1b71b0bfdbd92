"""Compares versions of Ollama as `/api/version` reports them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

# The version of an Ollama that was built from source without one.
BUILT_FROM_SOURCE = "0.0.0"

# Older backends are used too, with a warning.
OLDEST_SUPPORTED = "0.17.1"


def numbers(version: str) -> tuple[int, ...]:
    """`0.17.1-rc0` -> (0, 17, 1). A part that is not a number counts as 0."""
    parts = version.partition("-")[0].split(".")
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in parts)


def lowest(versions: Iterable[str]) -> str | None:
    """The lowest of the versions, None when there are none."""
    return min(versions, key=numbers, default=None)


def is_too_old(version: str | None) -> bool:
    """Whether `version` is below OLDEST_SUPPORTED. An unknown version is not."""
    return version not in (None, BUILT_FROM_SOURCE) and numbers(version or "") < numbers(OLDEST_SUPPORTED)

"""The numbers of a panel in Grafana's units, and the ticks of an axis. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The divisors of each unit with their suffixes, smallest first.
_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "short": ((1, ""), (1e3, " k"), (1e6, " M"), (1e9, " G")),
    "reqps": ((1, " req/s"), (1e3, " k req/s")),
    "s": ((1e-6, " µs"), (1e-3, " ms"), (1, " s"), (60, " min"), (3600, " h"), (86_400, " d")),
    "bytes": ((1, " B"), (2**10, " KiB"), (2**20, " MiB"), (2**30, " GiB")),
}
_INTERVALS = 3


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from 0 to `top`, with the values of its ticks and their labels."""

    top: float
    ticks: tuple[tuple[float, str], ...]


def format_value(value: float, unit: str) -> str:
    """The value with three significant digits, in the largest unit of which it has at least one."""
    divisor, suffix = _divisor(value, unit)
    return f"{_number(value / divisor)}{suffix}"


def make_axis(maximum: float, unit: str) -> Axis:
    """The axis of values up to `maximum`, with about three intervals of 1, 2 or 5 times a power of ten.

    Without a positive value the axis ends at 1.
    """
    maximum = maximum if maximum > 0 else 1
    divisor, suffix = _divisor(maximum, unit)
    step = _round_up(maximum / divisor / _INTERVALS)
    count = max(math.ceil(maximum / divisor / step - 1e-9), 1)
    values = [number * step for number in range(count + 1)]
    labels = ("0", *(f"{_number(value)}{suffix}" for value in values[1:]))
    return Axis(count * step * divisor, tuple(zip((value * divisor for value in values), labels, strict=True)))


def _divisor(value: float, unit: str) -> tuple[float, str]:
    units = _UNITS[unit]
    if value == 0:
        return next(each for each in units if each[0] == 1)
    return next((each for each in reversed(units) if abs(value) >= each[0]), units[0])


def _round_up(value: float) -> float:
    power: float = 10 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def _number(value: float) -> str:
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

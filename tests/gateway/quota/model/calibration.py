"""How the input of a tenant's requests to a model compares with its estimate. Pure; `calibration.lua` is its twin.

Smoothed as TCP smooths round-trip times (RFC 6298): an estimate shall rarely be too low, and be higher the less the
past agrees with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

# Shorter inputs say more about the template around a message than about the text.
ESTIMATE_MIN = 20
SAMPLE_RANGE = (100, 8000)
FACTOR_RANGE = (200, 8000)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Counted tokens in thousandths of the estimated ones: their smoothed mean and mean deviation."""

    mean: int
    deviation: int

    def corrected(self, estimate: int) -> int:
        """The tokens to hold for an estimate."""
        low, high = FACTOR_RANGE
        return -(-estimate * max(low, min(high, self.mean + 2 * self.deviation)) // 1000)


def learn(known: Calibration | None, estimate: int, counted: int) -> Calibration | None:
    """What is known after a request whose input was estimated and then counted by the backend."""
    if estimate < ESTIMATE_MIN:
        return known
    low, high = SAMPLE_RANGE
    sample = max(low, min(high, counted * 1000 // estimate))
    if known is None:
        return Calibration(sample, sample // 4)
    apart = sample - known.mean
    return Calibration(known.mean + apart // 8, known.deviation + (abs(apart) - known.deviation) // 4)

"""The ratio of counted to estimated input tokens of a tenant's requests to a model. Pure. Model of `calibration.lua`.

It is smoothed as TCP smooths round-trip times (RFC 6298). The corrected estimate is rarely too low, and it is higher
the more the samples vary.
"""

from __future__ import annotations

from dataclasses import dataclass

# The count of a shorter input depends more on the template around a message than on the text.
ESTIMATE_MIN = 20
SAMPLE_RANGE = (100, 8000)
FACTOR_RANGE = (200, 8000)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Smoothed mean and mean deviation of the counted tokens, in thousandths of the estimated ones."""

    mean: int
    deviation: int

    def corrected(self, estimate: int) -> int:
        """The tokens to hold for an estimate."""
        low, high = FACTOR_RANGE
        return -(-estimate * max(low, min(high, self.mean + 2 * self.deviation)) // 1000)


def learn(known: Calibration | None, estimate: int, counted: int) -> Calibration | None:
    """The calibration after a request whose input was estimated and then counted by the backend."""
    if estimate < ESTIMATE_MIN:
        return known
    low, high = SAMPLE_RANGE
    sample = max(low, min(high, counted * 1000 // estimate))
    if known is None:
        return Calibration(sample, sample // 4)
    difference = sample - known.mean
    deviation = known.deviation + (abs(difference) - known.deviation) // 4
    return Calibration(known.mean + difference // 8, deviation)

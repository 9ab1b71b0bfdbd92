"""How fast each model answers: output tokens per second of the time that a request takes at its backend. Pure.

A whole answer that its caller abandons has cost the backend the tokens generated so far, and none of them is visible.
"""

from __future__ import annotations

MODELS_MAX = 1000
# A new sample has this share of the mean.
_SHARE = 1 / 8


class GenerationRates:
    """The mean rate of each model in this process. Models beyond MODELS_MAX are not learned."""

    def __init__(self) -> None:
        self._per_s: dict[str, float] = {}

    def learn(self, model: str, output_tokens: int, duration_s: float) -> None:
        """Takes a complete answer. The duration includes the prompt, as it does for an abandoned answer."""
        if output_tokens <= 0 or duration_s <= 0:
            return
        sample = output_tokens / duration_s
        known = self._per_s.get(model)
        if known is not None:
            self._per_s[model] = known + (sample - known) * _SHARE
        elif len(self._per_s) < MODELS_MAX:
            self._per_s[model] = sample

    def tokens_in(self, model: str, duration_s: float) -> int:
        """The output tokens that the model generates in `duration_s`; 0 for a model without a complete answer."""
        return int(self._per_s.get(model, 0.0) * max(duration_s, 0.0))

"""How many bytes of text a token of a model has, learnt per tenant and model from whole answers. Pure.

A backend that sends no counts leaves only the text. Its own finished answers show how many bytes a token has, by their
text and their exact count. The mean and the deviation are smoothed as TCP smooths round-trip times (RFC 6298), like the
calibration of the input. They are in the memory of one meter, which begins without any, and cost no call of a store.

Tenants learn separately, and samples and results are bounded, so an unusual answer changes little: a tenant that lets a
model write rulers of dashes does not make its later answers nearly free.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

# Code, digits and rare scripts have fewer bytes per token than English, which has four to five. No language in common
# vocabularies has more than six on average.
BYTES_MIN, BYTES_MAX = 1.0, 6.0
# An answer of fewer tokens is no sample, because its invisible end mark weighs too much.
SAMPLE_TOKENS_MIN = 20
# A short text may happen to have only long tokens.
SLACK_BYTES = 64
# Answers of one model differ by a tenth even where all samples were equal.
DEVIATION_MIN = 0.1
ENTRIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The text of one whole answer, in bytes of UTF-8, and its exact count of tokens."""

    text_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenSize:
    """The learnt size of a token: its mean and the mean deviation between answers, in bytes."""

    mean: float
    deviation: float

    @classmethod
    def first(cls, sample: Sample) -> TokenSize:
        """The size after one sample."""
        mean = _bytes_per_token(sample)
        return cls(mean, mean / 4)

    def after(self, sample: Sample) -> TokenSize:
        """The size after one more sample."""
        difference = _bytes_per_token(sample) - self.mean
        return TokenSize(self.mean + difference / 8, self.deviation + (abs(difference) - self.deviation) / 4)

    def expected_tokens(self, text_bytes: int) -> int:
        """The tokens that a text of this size has on average, rounded up."""
        return math.ceil(text_bytes / self.mean)

    def least_tokens(self, text_bytes: int) -> int:
        """The tokens that a text of this size has at least, unless its tokens are unusually long."""
        longest = self.mean + 2 * max(self.deviation, DEVIATION_MIN * self.mean)
        return max(0, math.ceil((text_bytes - SLACK_BYTES) / longest))


class TokenSizes:
    """The learnt sizes by tenant id and model. The ENTRIES_MAX used last are retained."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[tuple[int, str], TokenSize] = OrderedDict()

    def get(self, tenant_id: int, model: str) -> TokenSize | None:
        """The learnt size, None before the first sample."""
        size = self._sizes.get((tenant_id, model))
        if size is not None:
            self._sizes.move_to_end((tenant_id, model))
        return size

    def learn(self, tenant_id: int, model: str, sample: Sample) -> None:
        """Takes the sample of a whole answer, unless it is too short."""
        if sample.tokens < SAMPLE_TOKENS_MIN or not sample.text_bytes:
            return
        size = self.get(tenant_id, model)
        self._sizes[tenant_id, model] = size.after(sample) if size else TokenSize.first(sample)
        if len(self._sizes) > ENTRIES_MAX:
            self._sizes.popitem(last=False)


def _bytes_per_token(sample: Sample) -> float:
    return max(BYTES_MIN, min(BYTES_MAX, sample.text_bytes / sample.tokens))

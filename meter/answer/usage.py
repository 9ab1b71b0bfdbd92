"""Folds FrameReads into one Usage, which is available at any moment. Pure; knows no bytes and no surface.

The backend's own counts win when they are present. A stream can end without them (a repeat guard, a crash, a caller
that disconnects, an impossible zero). Its frames are counted instead, because a backend sends one for almost every
token:

* a frame of one word, and of at most COUNTED_TOKEN_BYTES_MAX bytes per token, counts as its tokens (source `counted`);
* a longer frame or a whole answer holds several tokens, so its text is estimated (source `estimated`) by its size, and
  by no fewer tokens than it has words. The size of a token is what the model's whole answers to this tenant have shown
  (`meter.answer.token_size`), and three bytes before the first of them.
* all frames together count as no fewer tokens than their text has at least, by the learnt size of a token.

The input is then the estimate made at admission. The source `exact` means that both counts are the backend's.
"""

from __future__ import annotations

from gateway.request.token_estimate import tokens_in
from gateway.values import Usage, UsageSource
from meter.answer.token_size import Sample, TokenSize
from meter.frames.frame import FrameRead

# One word with its space fits, two ordinary words do not.
COUNTED_TOKEN_BYTES_MAX = 16
# No vocabulary in use has a longer token (128 spaces, a ruler of dashes), so each started 128 bytes are at least one.
TOKEN_BYTES_MAX = 128

# The finish reasons of requests that only load or unload a model.
_LOAD_ONLY = frozenset({"load", "unload"})
# The finish reasons, by dialect, of an answer that is nothing but text and was not cut.
_ENDED_ITSELF = frozenset({"stop", "end_turn", "completed"})


class UsageFold:
    """Adds up one answer. `input_estimate` and `output_cap` are the grant's, in tokens.

    `token_size` is the learnt one, None before there is any. `over_cap` is whether the output certainly exceeds the
    cap: by the backend's count, the frames, or the text's size.
    """

    def __init__(self, input_estimate: int, output_cap: int, token_size: TokenSize | None = None) -> None:
        self._expected_tokens = token_size.expected_tokens if token_size else tokens_in
        self._least_tokens = token_size.least_tokens if token_size else _no_tokens
        self._input_estimate = input_estimate
        self._output_cap = output_cap
        self._min_output_tokens = 0
        self._text_bytes = 0
        self._counted_tokens = 0
        self._estimated = False
        self._reported: Usage | None = None
        self._finish: str | None = None
        self.over_cap = False

    def add(self, read: FrameRead) -> None:
        """Adds the next frame."""
        self._min_output_tokens += read.min_output_tokens
        self._text_bytes += read.text_bytes
        tokens = read.min_output_tokens
        if read.text_bytes > tokens * COUNTED_TOKEN_BYTES_MAX or read.words > tokens:
            self._counted_tokens += max(tokens, read.words, self._expected_tokens(read.text_bytes))
            self._estimated = True
        else:
            self._counted_tokens += read.min_output_tokens
        if read.usage is not None:
            self._reported = read.usage
        self._finish = read.finish or self._finish
        reported = self._reported.output_tokens if self._reported else 0
        sure_tokens = max(reported, self._min_output_tokens, -(-self._text_bytes // TOKEN_BYTES_MAX))
        self.over_cap = 0 < self._output_cap < sure_tokens

    @property
    def usage(self) -> Usage:
        """The usage so far. The output never exceeds the cap: tokens beyond it were not delivered."""
        reported = self._reported or Usage()
        if self._is_idle(reported):
            return Usage(0, 0, UsageSource.EXACT)
        least_tokens = self._least_tokens(self._text_bytes)
        output_tokens = reported.output_tokens or max(self._counted_tokens, least_tokens)
        # A count of zero for delivered text means that the counter was lost.
        output_known = reported.output_tokens > 0 or not self._counted_tokens
        if reported.input_tokens and output_known:
            source = UsageSource.EXACT
        elif reported.output_tokens or (self._counted_tokens >= max(1, least_tokens) and not self._estimated):
            source = UsageSource.COUNTED
        else:
            source = UsageSource.ESTIMATED
        input_tokens = reported.input_tokens or self._input_estimate
        return Usage(input_tokens, min(output_tokens, self._output_cap), source)

    @property
    def sample(self) -> Sample | None:
        """What the answer shows about the size of a token, None for one that was cut or is not only text.

        Ollama counts thinking before an answer in a format only partly: fewer tokens than frames are no sample.
        """
        reported = self._reported.output_tokens if self._reported else 0
        if self._finish not in _ENDED_ITSELF or not reported or reported < self._min_output_tokens:
            return None
        return Sample(self._text_bytes, reported)

    def _is_idle(self, reported: Usage) -> bool:
        """Whether no model ran: a load, or a finished answer without text whose report is all zeros."""
        if self._counted_tokens or reported.input_tokens or reported.output_tokens:
            return False
        return self._finish in _LOAD_ONLY or (self._reported is not None and self._finish is not None)


def _no_tokens(_: int) -> int:
    return 0

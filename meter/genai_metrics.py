"""The OTLP metrics of the GenAI conventions, from the entries that have become audit rows, like `meter.metrics`."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.metrics.registry import BoundedNames
from gateway.record.entry import Entry
from gateway.tracing import genai
from gateway.tracing.exporter import OtlpExporter
from gateway.tracing.histogram import Histogram
from gateway.tracing.span import Value
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.metrics import MODELS_MAX, NONE
from meter.stream_span import error_of


class GenAiMetrics:
    """Records each new audit row of an admitted request once, so the sums of tokens equal the ledger."""

    def __init__(self, exporter: OtlpExporter) -> None:
        self._tokens = Histogram(
            genai.TOKEN_USAGE, "{token}", "Input and output tokens of a request.", genai.TOKEN_BUCKETS
        )
        self._duration = Histogram(
            genai.REQUEST_DURATION, "s", "Time to the end of the answer.", genai.DURATION_BUCKETS_S
        )
        self._first_token = Histogram(
            genai.TIME_TO_FIRST_TOKEN, "s", "Time to the first byte of a stream.", genai.FIRST_TOKEN_BUCKETS_S
        )
        self._per_token = Histogram(
            genai.TIME_PER_OUTPUT_TOKEN,
            "s",
            "Time per output token after the first, of complete streams.",
            genai.PER_TOKEN_BUCKETS_S,
        )
        exporter.add((self._tokens, self._duration, self._first_token, self._per_token))
        self._models = BoundedNames(MODELS_MAX)

    def record(self, entries: Sequence[Entry]) -> None:
        """Records new rows, each exactly once."""
        for entry in entries:
            if entry.outcome is not Outcome.DENIED and entry.surface in BY_NAME:
                self._record(entry, genai.operation(BY_NAME[entry.surface]))

    def _record(self, entry: Entry, operation: str) -> None:
        attributes: dict[str, Value] = {
            genai.OPERATION_NAME: operation,
            genai.PROVIDER_NAME: genai.PROVIDER,
            genai.REQUEST_MODEL: self._models.label(entry.model or NONE),
        }
        self._tokens.record(entry.input_tokens, {**attributes, genai.TOKEN_TYPE: "input"})
        if operation != "embeddings":
            self._tokens.record(entry.output_tokens, {**attributes, genai.TOKEN_TYPE: "output"})
        if entry.duration_ms is None:
            return
        error = error_of(entry)
        self._duration.record(
            entry.duration_ms / 1000, attributes if error is None else {**attributes, genai.ERROR_TYPE: error}
        )
        if not entry.stream or entry.ttft_ms is None:
            return
        self._first_token.record(entry.ttft_ms / 1000, attributes)
        if entry.outcome is Outcome.COMPLETE and entry.output_tokens > 1:
            self._per_token.record((entry.duration_ms - entry.ttft_ms) / 1000 / (entry.output_tokens - 1), attributes)

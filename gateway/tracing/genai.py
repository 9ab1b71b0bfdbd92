"""The GenAI semantic conventions of OpenTelemetry: names of operations, of attributes and of metrics. Pure.

Version: v0.1.0 of https://github.com/open-telemetry/semantic-conventions-genai. The metric of tokens has the name that
it had in semantic-conventions v1.37 to v1.41, which collectors and dashboards read.
"""

from __future__ import annotations

from gateway.wire.surfaces import AnswerShape, Surface

CONVENTIONS_VERSION = "v0.1.0"
PROVIDER = "ollama"
"""gen_ai.provider.name. The conventions have no value for Ollama, and permit others."""

_OPERATIONS = {
    AnswerShape.NATIVE_CHAT: "chat",
    AnswerShape.OPENAI_CHAT: "chat",
    AnswerShape.OPENAI_RESPONSES: "chat",
    AnswerShape.ANTHROPIC_MESSAGES: "chat",
    AnswerShape.NATIVE_GENERATE: "text_completion",
    AnswerShape.OPENAI_COMPLETIONS: "text_completion",
    AnswerShape.NATIVE_EMBED: "embeddings",
    AnswerShape.NATIVE_EMBEDDINGS: "embeddings",
    AnswerShape.OPENAI_EMBEDDINGS: "embeddings",
}

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 (a type of token, not a credential)
ERROR_TYPE = "error.type"

TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
REQUEST_DURATION = "gen_ai.server.request.duration"
TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token"  # noqa: S105
TIME_PER_OUTPUT_TOKEN = "gen_ai.server.time_per_output_token"  # noqa: S105

# The boundaries that the conventions recommend.
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
DURATION_BUCKETS_S = tuple(round(0.01 * 2**power, 2) for power in range(14))
FIRST_TOKEN_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
PER_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


def operation(surface: Surface) -> str:
    """gen_ai.operation.name of a surface."""
    return _OPERATIONS[surface.answer_shape]

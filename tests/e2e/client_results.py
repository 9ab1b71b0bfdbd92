"""The results of the official clients in one common form. Each function makes one request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.e2e.official_clients import Clients


@dataclass(frozen=True)
class ClientResult:
    """An answer as the client parsed it.

    `usage` is (input tokens, output tokens), None if the client received none. `tool_calls` are names of functions.
    """

    request_id: str
    text: str = ""
    thinking: str = ""
    tool_calls: tuple[str, ...] = ()
    logprobs: int = 0
    usage: tuple[int, int] | None = None


def native_chat(clients: Clients, stream: bool, **arguments: Any) -> ClientResult:
    """`/api/chat` by the Ollama client."""
    answer: Any = clients.ollama.chat(stream=stream, **arguments)
    parts = list(answer) if stream else [answer]
    return ClientResult(
        clients.ids[-1],
        "".join(part.message.content or "" for part in parts),
        "".join(part.message.thinking or "" for part in parts),
        tuple(call.function.name for part in parts for call in part.message.tool_calls or ()),
        sum(len(part.logprobs or ()) for part in parts),
        (parts[-1].prompt_eval_count, parts[-1].eval_count),
    )


def native_generate(clients: Clients, stream: bool, **arguments: Any) -> ClientResult:
    """`/api/generate` by the Ollama client."""
    answer: Any = clients.ollama.generate(stream=stream, **arguments)
    parts = list(answer) if stream else [answer]
    return ClientResult(
        clients.ids[-1],
        "".join(part.response or "" for part in parts),
        "".join(part.thinking or "" for part in parts),
        logprobs=sum(len(part.logprobs or ()) for part in parts),
        usage=(parts[-1].prompt_eval_count, parts[-1].eval_count),
    )


def native_embed(clients: Clients, _: bool, **arguments: Any) -> ClientResult:
    """`/api/embed` by the Ollama client."""
    answer = clients.ollama.embed(**arguments)
    return ClientResult(clients.ids[-1], str(answer.embeddings), usage=(answer.prompt_eval_count or 0, 0))


def native_embeddings(clients: Clients, _: bool, **arguments: Any) -> ClientResult:
    """`/api/embeddings` by the Ollama client. Ollama reports no usage on this route."""
    answer = clients.ollama.embeddings(**arguments)
    return ClientResult(clients.ids[-1], str(answer.embedding))


def v1_chat(clients: Clients, stream: bool, **arguments: Any) -> ClientResult:
    """`/v1/chat/completions` by the OpenAI client."""
    answer: Any = clients.openai.chat.completions.with_raw_response.create(stream=stream, **arguments)
    parsed = answer.parse()
    parts = list(parsed) if stream else [parsed]
    choices = [choice for part in parts for choice in part.choices]
    messages = [choice.delta if stream else choice.message for choice in choices]
    return ClientResult(
        answer.headers["x-request-id"],
        "".join(message.content or "" for message in messages),
        "".join((message.model_extra or {}).get("reasoning", "") for message in messages),
        tuple(call.function.name for message in messages for call in message.tool_calls or ()),
        sum(len(choice.logprobs.content or ()) for choice in choices if choice.logprobs),
        _openai_usage(part.usage for part in parts),
    )


def v1_completions(clients: Clients, stream: bool, **arguments: Any) -> ClientResult:
    """`/v1/completions` by the OpenAI client."""
    answer: Any = clients.openai.completions.with_raw_response.create(stream=stream, **arguments)
    parsed = answer.parse()
    parts = list(parsed) if stream else [parsed]
    return ClientResult(
        answer.headers["x-request-id"],
        "".join(choice.text for part in parts for choice in part.choices),
        usage=_openai_usage(part.usage for part in parts),
    )


def v1_embeddings(clients: Clients, _: bool, **arguments: Any) -> ClientResult:
    """`/v1/embeddings` by the OpenAI client, which requests base64 by default."""
    answer = clients.openai.embeddings.with_raw_response.create(**arguments)
    parsed = answer.parse()
    vectors = [row.embedding for row in parsed.data]
    return ClientResult(answer.headers["x-request-id"], str(vectors), usage=(parsed.usage.prompt_tokens, 0))


def v1_responses(clients: Clients, stream: bool, **arguments: Any) -> ClientResult:
    """`/v1/responses` by the OpenAI client. A stream is read with the helper that assembles the events."""
    if stream:
        with clients.openai.responses.stream(**arguments) as events:
            for _ in events:
                pass
            response, headers = events.get_final_response(), events._raw_stream.response.headers
    else:
        answer = clients.openai.responses.with_raw_response.create(**arguments)
        response, headers = answer.parse(), answer.headers
    return ClientResult(
        headers["x-request-id"],
        response.output_text,
        "".join(part.text for item in response.output if item.type == "reasoning" for part in item.summary),
        tuple(item.name for item in response.output if item.type == "function_call"),
        usage=(response.usage.input_tokens, response.usage.output_tokens) if response.usage else None,
    )


def v1_messages(clients: Clients, stream: bool, **arguments: Any) -> ClientResult:
    """`/v1/messages` by the Anthropic client. A stream is read with the helper that assembles the events."""
    if stream:
        with clients.anthropic.messages.stream(max_tokens=4000, **arguments) as events:
            message, headers = events.get_final_message(), events.response.headers
    else:
        answer = clients.anthropic.messages.with_raw_response.create(max_tokens=4000, **arguments)
        message, headers = answer.parse(), answer.headers
    return ClientResult(
        headers["x-request-id"],
        "".join(block.text for block in message.content if block.type == "text"),
        "".join(block.thinking for block in message.content if block.type == "thinking"),
        tuple(block.name for block in message.content if block.type == "tool_use"),
        usage=(message.usage.input_tokens, message.usage.output_tokens),
    )


def _openai_usage(reports: Iterable[Any]) -> tuple[int, int] | None:
    found = [(report.prompt_tokens, report.completion_tokens) for report in reports if report]
    return found[-1] if found else None

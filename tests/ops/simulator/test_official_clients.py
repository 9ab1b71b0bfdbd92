from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ops.simulator.app import RunningSimulator
from ops.simulator.control.recorder import Record
from tests.ops.simulator.inspection import last_record

if TYPE_CHECKING:
    # The imports take a second of CPU time, and each worker of pytest-xdist collects this file.
    from ollama import AsyncClient
    from openai import AsyncOpenAI

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
HELLO: list[Any] = [{"role": "user", "content": "Say hello"}]
NAME_TOOL: list[Any] = [{"role": "user", "content": "Use get_weather for Oslo"}]
MODELS = ["llama3.2", "qwen3:8b", "gemma3:270m", "hf.co/bartowski/smollm2:q4_k_m"]


def counts(record: Record) -> tuple[int, int]:
    return record.prompt_tokens, record.output_tokens


def ollama_client(server: RunningSimulator) -> AsyncClient:
    from ollama import AsyncClient

    return AsyncClient(host=server.url)


def openai_client(server: RunningSimulator) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("model", MODELS)
async def test_the_ollama_client_streams_a_chat_with_exact_counts(server: RunningSimulator, model: str) -> None:
    parts = [part async for part in await ollama_client(server).chat(model, HELLO, stream=True)]
    assert all(not part.done for part in parts[:-1])
    assert parts[-1].done_reason == "stop"
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == counts(last_record(server))
    assert len("".join(part.message.content or "" for part in parts)) > 20
    assert bool(parts[0].message.thinking) == (model == "qwen3:8b")
    assert last_record(server).finished == "complete"
    assert last_record(server).frames == len(parts)


async def test_the_ollama_client_gets_equal_answers_with_and_without_streaming(server: RunningSimulator) -> None:
    response = await ollama_client(server).generate("llama3.2", "Say hello")
    assert (response.prompt_eval_count, response.eval_count) == counts(last_record(server))
    parts = [part async for part in await ollama_client(server).generate("llama3.2", "Say hello", stream=True)]
    assert "".join(part.response or "" for part in parts) == response.response
    assert parts[-1].context


async def test_the_ollama_client_gets_a_tool_call(server: RunningSimulator) -> None:
    reply = await ollama_client(server).chat("qwen3:8b", NAME_TOOL, tools=[WEATHER])
    assert reply.message.tool_calls is not None
    assert reply.message.tool_calls[0].function.name == "get_weather"
    assert set(reply.message.tool_calls[0].function.arguments) == {"city"}


async def test_a_prompt_can_contain_the_arguments_of_the_tool_call(server: RunningSimulator) -> None:
    messages = [
        {"role": "user", "content": 'Use get_weather {"city": "Graz"}'},
        {"role": "system", "content": "The agent's own instructions"},
    ]
    reply = await ollama_client(server).chat("llama3.2", messages, tools=[WEATHER])
    assert [call.function.arguments for call in reply.message.tool_calls or ()] == [{"city": "Graz"}]


async def test_num_predict_and_stop_end_an_answer_of_the_ollama_client(server: RunningSimulator) -> None:
    capped = await ollama_client(server).chat("llama3.2", HELLO, options={"num_predict": 5})
    assert (capped.done_reason, capped.eval_count) == ("length", 5)
    stopped = await ollama_client(server).chat("llama3.2", HELLO, options={"stop": [":"]})
    assert stopped.message.content == "About hello"


async def test_the_ollama_client_lists_shows_and_embeds_and_lists_loaded_models(server: RunningSimulator) -> None:
    client = ollama_client(server)
    listed = {model.model for model in (await client.list()).models}
    assert listed >= {"llama3.2:latest", "hf.co/bartowski/smollm2:q4_k_m"}
    assert (await client.show("qwen3:8b")).capabilities == ["completion", "tools", "thinking"]
    embedded = await client.embed("nomic-embed-text", ["a", "b c"])
    assert [len(vector) for vector in embedded.embeddings] == [768, 768]
    assert embedded.prompt_eval_count == last_record(server).prompt_tokens == 5
    assert len((await client.embeddings("nomic-embed-text", "a")).embedding) == 768
    assert [model.model for model in (await client.ps()).models] == ["nomic-embed-text:latest"]


async def test_the_ollama_client_raises_the_errors_of_ollama(server: RunningSimulator) -> None:
    import ollama

    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as missing:
        await ollama_client(server).chat("nope", HELLO)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="does not support chat"):
        await ollama_client(server).chat("nomic-embed-text", HELLO)
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        await ollama_client(server).chat("llama3.2", HELLO, think=True)


@pytest.mark.parametrize("model", MODELS)
async def test_the_openai_client_streams_a_chat_with_exact_counts(server: RunningSimulator, model: str) -> None:
    stream = await openai_client(server).chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-2].choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == counts(last_record(server))


async def test_the_openai_client_gets_exact_counts_without_streaming(server: RunningSimulator) -> None:
    client = openai_client(server)
    chat = await client.chat.completions.create(model="llama3.2", messages=HELLO, max_tokens=7)
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == counts(last_record(server))
    assert (chat.choices[0].finish_reason, chat.usage.completion_tokens) == ("length", 7)
    text = await client.completions.create(model="llama3.2", prompt="Say hello")
    assert text.usage is not None
    assert (text.usage.prompt_tokens, text.usage.completion_tokens) == counts(last_record(server))


async def test_max_completion_tokens_and_n_are_ignored(server: RunningSimulator) -> None:
    chat = await openai_client(server).chat.completions.create(
        model="llama3.2", messages=HELLO, max_completion_tokens=2, n=3
    )
    assert chat.usage is not None
    assert chat.usage.completion_tokens > 2
    assert len(chat.choices) == 1


async def test_the_openai_client_gets_tool_calls_log_probabilities_and_json(server: RunningSimulator) -> None:
    client = openai_client(server)
    called = await client.chat.completions.create(model="llama3.2", messages=NAME_TOOL, tools=[WEATHER])  # type: ignore[list-item]
    assert called.choices[0].finish_reason == "tool_calls"
    with_logprobs = await client.chat.completions.create(
        model="llama3.2", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2
    )
    assert with_logprobs.choices[0].logprobs is not None
    rows = with_logprobs.choices[0].logprobs.content or []
    assert [len(row.top_logprobs) for row in rows] == [2, 2, 2]
    as_json = await client.chat.completions.create(
        model="llama3.2", messages=HELLO, response_format={"type": "json_object"}
    )
    assert (as_json.choices[0].message.content or "").startswith('{"answer"')


async def test_the_openai_client_reads_the_events_of_responses(server: RunningSimulator) -> None:
    client = openai_client(server)
    stream = await client.responses.create(model="qwen3:8b", input="Say hello", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == counts(last_record(server))
    response = await client.responses.create(model="qwen3:8b", input="Say hello", max_output_tokens=9)
    assert response.usage is not None
    assert response.usage.output_tokens == last_record(server).output_tokens == 9
    assert response.status == "completed"


async def test_the_openai_client_gets_equal_embeddings_in_both_encodings(server: RunningSimulator) -> None:
    client = openai_client(server)
    packed = await client.embeddings.create(model="nomic-embed-text", input=["a", "b"])
    floats = await client.embeddings.create(model="nomic-embed-text", input=["a", "b"], encoding_format="float")
    assert packed.usage.prompt_tokens == last_record(server).prompt_tokens == 4
    for left, right in zip(packed.data, floats.data, strict=True):
        assert left.embedding == pytest.approx(right.embedding, abs=1e-6)


async def test_the_openai_client_lists_models_and_raises_its_own_errors(server: RunningSimulator) -> None:
    import openai

    client = openai_client(server)
    assert "qwen3:8b" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("QWEN3:8b")).id == "QWEN3:8b"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="nope", messages=HELLO)
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="llama3.2", prompt=["a", "b"])


async def test_the_openai_client_transcribes(server: RunningSimulator) -> None:
    transcription = await openai_client(server).audio.transcriptions.create(
        model="llama3.2", file=("a.wav", b"RIFFxxxx")
    )
    assert transcription.text.startswith("About")

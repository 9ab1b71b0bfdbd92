"""What the real Ollama answers, from a comparison of 612 requests with the simulated one."""

from typing import Any

import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.inspection import last_record
from tests.ops.simulator.raw_http import Reply, call

HELLO = [{"role": "user", "content": "Say something short about the sea"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
PNG = "iVBORw0KGgo="
IMAGE_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
NO_VISION = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.",'
    '"type":"invalid_request_error"}}'
)
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
TOO_LONG = "river " * 3000


def _error(reply: Reply) -> str:
    error: Any = reply.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


CASES: list[tuple[str, dict[str, Any], int, str]] = [
    # S1, S2: a capability that is missing
    ("/api/chat", {"messages": HELLO, "tools": [TOOL], "model": "gemma3:270m"}, 400,
     "registry.ollama.ai/library/gemma3:270m does not support tools"),
    ("/v1/chat/completions", {"messages": HELLO, "tools": [TOOL], "model": "GEMMA3:270m"}, 400,
     "registry.ollama.ai/library/gemma3:270m does not support tools"),
    ("/v1/messages", {"messages": HELLO, "tools": [{"name": "f"}], "model": "gemma3:270m", "max_tokens": 4}, 400,
     "registry.ollama.ai/library/gemma3:270m does not support tools"),
    ("/api/generate", {"prompt": "def f(", "suffix": "return", "model": "gemma3:270m"}, 400,
     "registry.ollama.ai/library/gemma3:270m does not support insert"),
    ("/v1/completions", {"prompt": "def f(", "suffix": "return", "model": "gemma3:270m"}, 400,
     "registry.ollama.ai/library/gemma3:270m does not support insert"),
    # S7, S8: images
    ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": [PNG]}]}, 400, NO_VISION),
    ("/api/generate", {"prompt": "x", "images": [PNG]}, 400, NO_VISION),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [IMAGE_PART]}]}, 400, NO_VISION),
    ("/api/generate", {"prompt": "x", "images": ["!!"]}, 400, "illegal base64 data at input byte 0"),
    ("/api/generate", {"prompt": "x", "images": ["iVBORw0"]}, 400, "illegal base64 data at input byte 4"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]}, 400,
     "image URLs are not currently supported, please use base64 encoded data instead"),
    # S9, S12: embeddings
    ("/api/embed", {"input": "a"}, 501, NO_EMBEDDINGS),
    ("/api/embeddings", {"prompt": "a", "model": "llama3.2:latest"}, 500, NO_EMBEDDINGS),
    ("/v1/embeddings", {"input": "a"}, 501, NO_EMBEDDINGS),
    ("/api/embed", {"model": "nomic-embed-text", "input": TOO_LONG, "truncate": False}, 400,
     "the input length exceeds the context length"),
    ("/api/embeddings", {"model": "nomic-embed-text:latest", "prompt": TOO_LONG}, 500,
     "the input length exceeds the context length"),
    # S13, S14: formats, templates and contexts
    ("/api/chat", {"messages": HELLO, "format": "xml"}, 500,
     'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
    ("/api/generate", {"prompt": "x", "raw": True, "system": "s"}, 400,
     "raw mode does not support template, system, or context"),
    ("/api/generate", {"prompt": "x", "raw": True, "context": [1]}, 400,
     "raw mode does not support template, system, or context"),
    ("/api/generate", {"prompt": "x", "template": "{{ .Prompt"}, 500, "template: :1: unclosed action"),
    ("/api/generate", {"prompt": "x", "template": "{{ if .System }}a"}, 500, "template: :1: unexpected EOF"),
    ("/api/generate", {"prompt": "x", "context": [999_999_999]}, 500, "detokenize error: "),
    # S15, S17, S19, S20, S22: words of refusals
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "{"}}]}]}, 400, "invalid tool call arguments"),
    ("/api/chat", {"messages": HELLO, "model": "a b"}, 400, "invalid model name"),
    ("/v1/messages", {"messages": [{"role": "user", "content": 5}], "max_tokens": 4}, 400,
     "json: cannot unmarshal number into Go value of type []anthropic.ContentBlock"),
    ("/api/chat", {"messages": HELLO, "think": "lots"}, 400, 'invalid think value: "lots" (must be "high", "medium",'),
    ("/api/chat", {"messages": HELLO, "keep_alive": "5 minutes"}, 400,
     'time: unknown unit " minutes" in duration "5 minutes"'),
    ("/api/chat", {"messages": HELLO, "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
    ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, 400,
     "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64']."),
    ("/v1/chat/completions", {"messages": HELLO, "reasoning_effort": "lots"}, 400,
     'invalid reasoning value: "lots" (must be "minimal", "low",'),
    ("/v1/completions", {"prompt": "x", "stop": [5]}, 400, "invalid type for 'stop' field: float64"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "error"), CASES)
async def test_a_refusal_has_the_status_and_the_words_of_ollama(
    server: RunningSimulator, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    reply = await call(server.url, path, {"model": "llama3.2", **body})
    assert reply.status == status
    assert _error(reply).startswith(error)


@pytest.mark.parametrize("text", ["", [], None])
async def test_an_embedding_of_nothing_has_no_counts(server: RunningSimulator, text: Any) -> None:
    """S10, S11."""
    body = {"model": "nomic-embed-text", "input": text}
    reply = await call(server.url, "/api/embed", body)
    assert reply.json() == {"model": "nomic-embed-text", "embeddings": []}
    openai = await call(server.url, "/v1/embeddings", body)
    if text == "":
        assert openai.json()["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
        assert len(openai.json()["data"]) == 1
    else:
        assert (openai.status, openai.json()["error"]["message"]) == (400, "invalid input")


async def test_thinking_on_v1_messages_is_left_out_by_a_model_without_it(server: RunningSimulator) -> None:
    """S16."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"model": "llama3.2", "messages": HELLO, "max_tokens": 8, "thinking": thinking}
    reply = await call(server.url, "/v1/messages", body)
    assert [block["type"] for block in reply.json()["content"]] == ["text"]


async def test_a_request_for_the_rendered_prompt_generates_nothing(server: RunningSimulator) -> None:
    """S18."""
    for path, body in (("/api/generate", {"prompt": "The sea is"}), ("/api/chat", {"messages": HELLO})):
        reply = await call(server.url, path, {"model": "llama3.2", **body, "_debug_render_only": True})
        document = reply.json()
        assert document["_debug_info"]["rendered_template"].startswith("<|u>")
        assert document["done"] is False
        assert not {"eval_count", "prompt_eval_count"} & document.keys()
        assert last_record(server).output_tokens == 0


async def test_a_message_without_content_has_none(server: RunningSimulator) -> None:
    """S19."""
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": []}], "max_tokens": 8}
    assert (await call(server.url, "/v1/messages", body)).json()["content"] is None


async def test_show_has_tensors_and_only_the_texts_that_the_model_has(server: RunningSimulator) -> None:
    """S21."""
    server.simulator.library.replace_all([{"name": "plain", "system": "", "license": ""}, "with-system"])
    plain = (await call(server.url, "/api/show", {"model": "plain"})).json()
    assert not {"system", "license"} & plain.keys()
    assert plain["tensors"][0].keys() == {"name", "type", "shape"}
    assert {"system", "license"} <= (await call(server.url, "/api/show", {"model": "with-system"})).json().keys()


async def test_an_unload_is_no_load(server: RunningSimulator) -> None:
    """W3, for any model."""
    for model in ("llama3.2", "nomic-embed-text"):
        reply = await call(server.url, "/api/generate", {"model": model, "keep_alive": 0})
        assert reply.json()["done_reason"] == "unload"
    assert (await call(server.url, "/api/ps")).json() == {"models": []}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_continues_a_prompt_that_repeats_a_word_until_the_repeat_guard(
    server: RunningSimulator, stream: bool
) -> None:
    """W4."""
    body = {"model": "llama3.2", "raw": True, "prompt": "a " * 23 + "a", "stream": stream}
    reply = await call(server.url, "/api/generate", body)
    assert reply.status == 200
    assert b'"done":true' not in reply.body
    assert last_record(server).output_tokens > 30


async def test_a_script_of_a_local_origin_may_read_answers(server: RunningSimulator) -> None:
    reply = await call(server.url, "/api/version", headers="Origin: http://localhost:3000\r\n")
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert (await call(server.url, "/api/version", headers="Origin: https://example.org\r\n")).status == 403

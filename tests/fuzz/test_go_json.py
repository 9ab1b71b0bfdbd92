"""The model of Ollama's parser against recorded behaviour of the real one, and against the simulated Ollama."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from gateway.wire.surfaces import BY_NAME, Surface
from ops.simulator.dialects import gojson, native
from ops.simulator.dialects.openai import chat
from tests.fuzz.bodies import REQUESTS
from tests.fuzz.go_json import GoError, first_value
from tests.fuzz.ollama_parser import STRUCTS, identity, parse_request

CHAT = STRUCTS["chat"]
SIMULATED = {"chat": native.CHAT, "generate": native.GENERATE, "v1_chat": chat.CHAT}


def read(body: bytes, surface: str = "chat") -> Any:
    return STRUCTS[surface].read(first_value(body), None)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'{"model":"ok","Model":"evil"}', {"model": "evil"}),
        (b'{"MODEL":"evil"}', {"model": "evil"}),
        (b'{"model":"evil","model":null}', {"model": "evil"}),
        (b'{"stream":false,"stream":null}', {"stream": None}),
        ('{"\u017ftream":false}'.encode(), {"stream": False}),
        ('{"\u212aeep_alive":-1}'.encode(), {"keep_alive": -1.0}),
        ('{"\u0130mages":1,"stream":true}'.encode(), {"stream": True}),
        (b'{"options":{"num_predict":10},"options":{"num_ctx":5}}', {"options": {"num_predict": 10, "num_ctx": 5}}),
        (b'{"options":{"num_predict":10},"OPTIONS":{"num_predict":-1}}', {"options": {"num_predict": -1}}),
        (b'{"options":{"NUM_PREDICT":1}}', {"options": {"NUM_PREDICT": 1}}),
        (b'{"options":{"stop":1},"options":null}', {"options": None}),
        (b'{"model":"a"} {"model":"b"}', {"model": "a"}),
        (b'{"model":"a"}junk', {"model": "a"}),
        (b' \t\r\n{"m\\u006fdel":"x"}', {"model": "x"}),
        (b'{"model":"\xff\xfe"}', {"model": "\ufffd\ufffd"}),
        (b'{"model":"\\ud800x"}', {"model": "\ufffdx"}),
        (b'{"model":"\\ud83d\\ude00"}', {"model": "\U0001f600"}),
        (b'{"model":"\\ud800\\ud83d\\ude00"}', {"model": "\ufffd\U0001f600"}),
        (
            b'{"messages":[{"role":"user","content":"a"}],"messages":[{"Content":"b"}]}',
            {"messages": [{"role": "user", "content": "b"}]},
        ),
        (b'{"TOOLS":[{"Type":"x"}]}', {"tools": [{"type": "x"}]}),
        (b"null", None),
    ],
)
def test_a_body_is_read_as_go_reads_it(body: bytes, values: Any) -> None:
    assert read(body) == values


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b'{"model"', b'{"model":', b'{"model":"a"', b'{"model":"a",}', b"[]", b"5", b'"a"',
        b"\xef\xbb\xbf{}", '{"model":"a"}'.encode("utf-16"), b'{"options":{"seed":NaN}}', b'{"options":{"seed":1e400}}',
        b'{"options":{"seed":-Infinity}}', b'{"options":{"seed":01}}', b'{"options":{"seed":.5}}', b"{'model':1}",
        b'{"stream":"false"}', b'{"model":5}', b'{"top_logprobs":1.0}', b'{"top_logprobs":1e2}', b'{"model":"\n"}',
        b'{"top_logprobs":9223372036854775808}', b'{"options":[]}', b'{"model":"\\x"}', b'{"model":"\\u12g4"}',
        b"[" * 20_000,
    ],
)  # fmt: skip
def test_a_body_that_go_refuses_is_refused(body: bytes) -> None:
    with pytest.raises(GoError):
        read(body)


@pytest.mark.parametrize(
    ("number", "cap"),
    [
        ("10", 10), ("10.9", 10), ("0", None), ("0.9", None), ("-1", None), ("1e308", None), ("null", None),
        ("12345678901234567890", None), ("1e2", 100),
    ],
)  # fmt: skip
def test_an_option_is_truncated_to_an_integer_and_a_value_below_one_is_no_limit(number: str, cap: int | None) -> None:
    body = b'{"model":"m","options":{"num_predict":' + number.encode() + b"}}"
    assert parse_request(BY_NAME["chat"], body).output_cap == cap


def test_stream_options_merge_until_null_resets_them() -> None:
    merged = read(b'{"stream_options":{"include_usage":true},"stream_options":{}}', "v1_chat")
    reset = read(b'{"stream_options":{"include_usage":true},"stream_options":null}', "v1_chat")
    assert (merged, reset) == ({"stream_options": {"include_usage": True}}, {"stream_options": None})


@pytest.mark.parametrize(
    "name", [" llama3.2\n", "\u00a0LLAMA3.2", "llama3.2: local", "foo://registry.ollama.ai/library/llama3.2"]
)
def test_different_spellings_that_ollama_accepts_are_one_model(name: str) -> None:
    assert identity(name) == identity("llama3.2")


@given(REQUESTS)
def test_the_simulated_ollama_reads_a_body_as_the_model_of_the_parser_does(request: tuple[Surface, bytes]) -> None:
    surface, body = request
    if (simulated := SIMULATED.get(surface.name)) is None:
        return
    try:
        simulator_values: Any = gojson.bind(body, simulated)
    except ValueError:
        simulator_values = None
    try:
        model_values = read(body, surface.name) or {}
    except GoError:
        model_values = None
    if simulator_values is not None and model_values is not None:
        for field in ("model", "stream", "max_tokens", "stream_options"):
            assert simulator_values.get(field) == model_values.get(field), field

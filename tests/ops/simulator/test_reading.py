from typing import Any

import pytest

from ops.simulator.dialects import gojson, native
from ops.simulator.dialects.openai import chat
from ops.simulator.models import names


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        (b'{"model":"ok","Model":"evil"}', "model", "evil"),
        (b'{"MODEL":"evil"}', "model", "evil"),
        (b'{"model":"evil","model":null}', "model", "evil"),
        ('{"\u017ftream":false}'.encode(), "stream", False),
        ('{"\u212aeep_alive":-1}'.encode(), "keep_alive", -1),
        (b'{"stream":false,"stream":null}', "stream", None),
        (b'{"options":{"num_predict":10},"options":{"num_ctx":5}}', "options", {"num_predict": 10, "num_ctx": 5}),
        (b'{"options":{"num_predict":10},"OPTIONS":{"num_predict":-1}}', "options", {"num_predict": -1}),
        (b'{"options":{"NUM_PREDICT":1}}', "options", {"NUM_PREDICT": 1}),
        (b'{"model":"a"} {"model":"b"}', "model", "a"),
        (b'{"model":"a"}junk', "model", "a"),
        (b'{"m\\u006fdel":"x"}', "model", "x"),
        (b'{"model":"\xff"}', "model", "\ufffd"),
        (b'{"model":"\\ud800"}', "model", "\ufffd"),
        (
            b'{"messages":[{"role":"user","content":"a"}],"messages":[{"content":"b"}]}',
            "messages",
            [{"role": "user", "content": "b"}],
        ),
        (b'{"messages":[{"ROLE":"user"}]}', "messages", [{"role": "user"}]),
    ],
)
def test_a_body_is_read_as_loosely_as_go_reads_it(body: bytes, field: str, value: Any) -> None:
    assert gojson.bind(body, native.CHAT)[field] == value


def test_repeated_stream_options_merge_and_null_resets_them() -> None:
    kept = gojson.bind(b'{"stream_options":{"include_usage":true},"stream_options":{}}', chat.CHAT)
    reset = gojson.bind(b'{"stream_options":{"include_usage":true},"stream_options":null}', chat.CHAT)
    assert kept["stream_options"] == {"include_usage": True}
    assert reset["stream_options"] is None


def test_an_object_of_null_is_an_empty_request() -> None:
    assert gojson.bind(b"null", native.CHAT) == {}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "EOF"),
        (b'{"model":', "unexpected EOF"),
        (b"\xef\xbb\xbf{}", "invalid character"),
        ('{"model":"a"}'.encode("utf-16"), "invalid character"),
        (b'{"options":{"seed":NaN}}', "invalid character"),
        (b'{"options":{"seed":-Infinity}}', "invalid character"),
        (b'{"options":{"seed":1e400}}', "cannot unmarshal number"),
        (b'{"stream":"false"}', "cannot unmarshal string into Go struct field ChatRequest.stream of type bool"),
        (b'{"model":5}', "cannot unmarshal number into Go struct field ChatRequest.model of type string"),
        (b"[]", "cannot unmarshal array into Go value of type api.ChatRequest"),
        (b"[" * 20_000, "exceeded max depth"),
        (b'{"top_logprobs":' + b"9" * 5000 + b"}", "integer string conversion"),
    ],
)
def test_a_body_go_refuses_is_refused(body: bytes, error: str) -> None:
    with pytest.raises(gojson.GoJsonError, match=error):
        gojson.bind(body, native.CHAT)


def test_json_is_written_with_the_escapes_of_go() -> None:
    assert gojson.dump({"a": "<b>&\u2028ü"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028ü"}'.encode()


@pytest.mark.parametrize(
    "spelling",
    [
        "llama3.2",
        "LLAMA3.2:Latest",
        " llama3.2\n",
        "\u00a0llama3.2",
        "llama3.2:local",
        "llama3.2:latest:LOCAL",
        "llama3.2: local",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2:latest",
        "https://registry.ollama.ai/library/llama3.2",
        "foo://registry.ollama.ai/library/llama3.2",
        "://registry.ollama.ai/library/llama3.2",
    ],
)
def test_spellings_of_one_model_are_the_same_name(spelling: str) -> None:
    name = names.parse(names.split_source(spelling)[0])
    assert name is not None
    assert name.key == "registry.ollama.ai/library/llama3.2:latest"
    assert name.display.lower() == "llama3.2:latest"


@pytest.mark.parametrize("spelling", ["registry.ollama.ai:443/library/llama3.2", "hf.co/library/llama3.2"])
def test_another_host_is_another_model(spelling: str) -> None:
    name = names.parse(spelling)
    assert name is not None
    assert name.key != "registry.ollama.ai/library/llama3.2:latest"


@pytest.mark.parametrize(
    ("spelling", "base"),
    [
        ("gpt-oss:20b-cloud", "gpt-oss:20b"),
        ("gpt-oss:20b:cloud", "gpt-oss:20b"),
        ("gpt-oss:20b-CLOUD", "gpt-oss:20b"),
        ("llama3.2:cloud", "llama3.2"),
    ],
)
def test_a_cloud_suffix_names_the_cloud(spelling: str, base: str) -> None:
    assert names.split_source(spelling) == (base, "cloud")


def test_cloud_without_a_colon_is_part_of_a_name() -> None:
    assert names.split_source("my-model-cloud") == ("my-model-cloud", "")


def test_two_sources_are_a_conflict() -> None:
    with pytest.raises(names.ConflictingSource):
        names.split_source("m:cloud:local")


@pytest.mark.parametrize("spelling", ["", "/x", "x:", "a/b/c/d", "x@sha256:ab", "m:a:b", "modèle", "a\0", "a" * 81])
def test_an_invalid_name_is_no_name(spelling: str) -> None:
    assert names.parse(spelling) is None

from typing import Any

import pytest

from ops.simulator.dialects import gojson, native
from ops.simulator.dialects.openai import chat


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
def test_a_body_is_read_as_leniently_as_go_reads_it(body: bytes, field: str, value: Any) -> None:
    assert gojson.bind(body, native.CHAT)[field] == value


def test_repeated_stream_options_merge_and_null_resets_them() -> None:
    merged = gojson.bind(b'{"stream_options":{"include_usage":true},"stream_options":{}}', chat.CHAT)
    reset = gojson.bind(b'{"stream_options":{"include_usage":true},"stream_options":null}', chat.CHAT)
    assert merged["stream_options"] == {"include_usage": True}
    assert reset["stream_options"] is None


def test_null_is_an_empty_request() -> None:
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
def test_a_body_that_go_rejects_is_rejected(body: bytes, error: str) -> None:
    with pytest.raises(gojson.GoJsonError, match=error):
        gojson.bind(body, native.CHAT)


def test_json_is_written_with_the_escapes_of_go() -> None:
    assert gojson.dump({"a": "<b>&\u2028ü"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028ü"}'.encode()

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.request import DEPTH_MAX, as_model_name, read_model, read_request
from gateway.errors import Code, Denied
from gateway.wire.surfaces import BY_NAME, SURFACES

CHAT = BY_NAME["chat"]

AMBIGUOUS = {
    "another spelling of model next to it": b'{"model":"ok","Model":"evil"}',
    "another spelling of model alone": b'{"MODEL":"evil"}',
    "a model that null does not unset": b'{"model":"evil","model":null}',
    "the long s that folds to s": '{"model":"a","\u017ftream":false}'.encode(),
    "the Kelvin sign that folds to k": '{"model":"a","\u212aeep_alive":-1}'.encode(),
    "options that would merge": b'{"model":"a","options":{"num_predict":1},"options":{"num_ctx":5}}',
    "options in another spelling": b'{"model":"a","options":{"num_predict":1},"OPTIONS":{"num_predict":-1}}',
    "a nested duplicate": b'{"model":"a","options":{"num_predict":5,"NUM_PREDICT":-1}}',
    "a nested duplicate of a carried key": b'{"model":"a","format":{"type":"object","TYPE":"string"}}',
    "stream options that would merge": b'{"model":"a","stream_options":{"include_usage":true},"stream_options":{}}',
    "a stream option in another spelling": b'{"model":"a","stream_options":{"Include_Usage":false}}',
    "an option in another spelling": b'{"model":"a","options":{"Num_Predict":-1}}',
    "messages that would merge": b'{"model":"a","messages":[{"content":"x"}],"messages":[{"role":"user"}]}',
    "a key and its Unicode fold": '{"model":"a","\u017feed":1,"seed":2}'.encode(),
    "an escaped duplicate": b'{"model":"a","m\\u006fdel":"b"}',
    "a second value": b'{"model":"a"} {"model":"b"}',
    "text after the value": b'{"model":"a"}junk',
    "a byte order mark": b'\xef\xbb\xbf{"model":"a"}',
    "UTF-16": '{"model":"a"}'.encode("utf-16"),
    "UTF-32": '{"model":"a"}'.encode("utf-32"),
    "invalid UTF-8": b'{"model":"a","x":"\xff"}',
    "half of a surrogate pair": b'{"model":"a","x":"\\ud800"}',
    "half of a surrogate pair in a key": b'{"model":"a","\\udc00":1}',
    "NaN": b'{"model":"a","x":NaN}',
    "Infinity": b'{"model":"a","x":-Infinity}',
    "a float beyond all bounds": b'{"model":"a","x":1e400}',
    "an integer beyond 64 bits": b'{"model":"a","options":{"num_predict":12345678901234567890}}',
    "an integer of five thousand digits": b'{"model":"a","x":' + b"1" * 5000 + b"}",
    "a nesting deeper than the limit": b'{"model":"a","x":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}",
    "a nesting that overflows stacks": b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "null": b"null",
    "a list": b'[{"model":"a"}]',
    "nothing": b"",
    "no model": b'{"messages":[]}',
    "a model that is a number": b'{"model":5}',
    "a stream that is a string": b'{"model":"a","stream":"false"}',
    "a cap that is true": b'{"model":"a","options":{"num_predict":true}}',
    "a float option beyond all integers": b'{"model":"a","options":{"num_predict":1e308}}',
    "a cap with a fraction": b'{"model":"a","options":{"num_predict":0.9}}',
    "a model that is null": b'{"model":null}',
    "an empty model": b'{"model":""}',
    "a search in another spelling": b'{"model":"a","tools":[{"Type":"web_search"}]}',
    "a search in a namespace": b'{"model":"a","tools":[{"type":"namespace","tools":[{"type":"web_search"}]}]}',
    "members of a namespace in another spelling": b'{"model":"a","tools":[{"Tools":[{"type":"web_search"}]}]}',
    "a search that the backend would run": b'{"model":"a","tools":[{"type":"web_search_20250305","name":"s"}]}',
}


@pytest.mark.parametrize("body", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_body_is_denied(body: bytes) -> None:
    with pytest.raises(Denied) as denied:
        read_request(CHAT, body, "")
    assert denied.value.code is Code.INVALID_REQUEST
    assert denied.value.message


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "gzip, identity"])
def test_a_compressed_body_is_denied(encoding: str) -> None:
    with pytest.raises(Denied, match="Content-Encoding"):
        read_request(CHAT, b'{"model":"a"}', encoding)


def test_a_schema_may_have_properties_of_any_name() -> None:
    schema = {"type": "object", "properties": {"Model": {"type": "string"}, "Stream": {"type": "boolean"}}}
    body = json.dumps({"model": "a", "format": schema}).encode()
    assert read_request(CHAT, body, "identity").document["format"] == schema


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_the_model_is_read_as_its_canonical_name_on_every_surface(surface: Any) -> None:
    assert read_request(surface, b'{"model":"LLAMA3.2:Latest"}', "").model == "llama3.2:latest"


@pytest.mark.parametrize("name", ["gpt-oss:20b-cloud", "gpt-oss:20b:CLOUD", "llama3.2:cloud"])
def test_a_cloud_model_never_has_the_name_of_a_local_one(name: str) -> None:
    assert as_model_name(name) in ("gpt-oss:20b-cloud", "llama3.2:cloud")


def test_show_reads_the_older_field_when_there_is_no_model() -> None:
    assert read_model(b'{"name":"m"}', "") == "m:latest"
    assert read_model(b'{"name":"m","model":"n"}', "") == "n:latest"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_denied(body: bytes) -> None:
    try:
        read_request(CHAT, body, "")
    except Denied as denied:
        assert denied.code is Code.INVALID_REQUEST


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text("qwxyz", min_size=1, max_size=4), _VALUES, max_size=4))
def test_the_document_is_the_one_that_was_sent(fields: dict[str, Any]) -> None:
    document = {"model": "m", **fields}
    assert read_request(CHAT, json.dumps(document).encode(), "").document == document

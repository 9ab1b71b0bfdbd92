import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.request import DEPTH_MAX, VALUES_MAX, as_model_name, read_model, read_request
from gateway.errors import Code, Denied
from gateway.request.json_text import JsonObject
from gateway.request.token_estimate import estimate_input
from gateway.wire.surfaces import BY_NAME, SURFACES
from meter.rewrite import rewrite
from tests.meter.wire_corpus import grant_for

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
    "half of a surrogate pair in the model": b'{"model":"a\\ud800"}',
    "NaN": b'{"model":"a","x":NaN}',
    "Infinity": b'{"model":"a","x":-Infinity}',
    "a cap beyond all bounds": b'{"model":"a","options":{"num_predict":1e400}}',
    "a cap of five thousand digits": b'{"model":"a","options":{"num_predict":' + b"1" * 5000 + b"}}",
    "a nesting deeper than the limit": b'{"model":"a","x":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}",
    "a nesting that overflows stacks": b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "null": b"null",
    "a list": b'[{"model":"a"}]',
    "nothing": b"",
    "no model": b'{"messages":[]}',
    "a model that is a number": b'{"model":5}',
    "a stream that is a string": b'{"model":"a","stream":"false"}',
    "a cap that is true": b'{"model":"a","options":{"num_predict":true}}',
    "a cap with a fraction": b'{"model":"a","options":{"num_predict":0.9}}',
    "a model that is null": b'{"model":null}',
    "an empty model": b'{"model":""}',
    "a search in another spelling": b'{"model":"a","tools":[{"Type":"web_search"}]}',
    "a type of a tool that null does not unset": b'{"model":"a","tools":[{"type":"web_search","type":null}]}',
    "members of a namespace in another spelling": b'{"model":"a","tools":[{"Tools":[{"type":"web_search"}]}]}',
    "namespaces in namespaces": b'{"model":"a","tools":' + b'[{"tools":' * 5 + b"[]" + b"}]" * 5 + b"}",
}


@pytest.mark.parametrize("body", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_body_is_denied(body: bytes) -> None:
    with pytest.raises(Denied) as denied:
        read_request(CHAT, body, "")
    assert denied.value.code is Code.INVALID_REQUEST
    assert denied.value.message


@pytest.mark.parametrize("empty", [b"{}", b"[]", b"1", b'""'])
def test_a_body_of_too_many_values_is_denied_before_it_is_parsed(empty: bytes) -> None:
    """Tiny values take a reader far longer than their bytes suggest, which would block the requests of others."""
    values = b",".join([empty] * VALUES_MAX)
    with pytest.raises(Denied, match="more than 200000 values"):
        read_request(CHAT, b'{"model":"a","messages":[' + values + b"]}", "")


def test_a_body_of_as_many_values_as_are_allowed_is_read() -> None:
    # The two brackets, the comma between the members, and those between the numbers.
    numbers = b",".join([b"1"] * (VALUES_MAX - 2))
    read = read_request(CHAT, b'{"model":"a","messages":[' + numbers + b"]}", "")
    assert len(read.document["messages"]) == VALUES_MAX - 2
    with pytest.raises(Denied, match="more than 200000 values"):
        read_request(CHAT, b'{"model":"a","messages":[1,' + numbers + b"]}", "")


def test_separators_within_strings_are_no_values() -> None:
    table = json.dumps('1,2,{"a":[3,4]},\n' * VALUES_MAX).encode()
    read = read_request(BY_NAME["generate"], b'{"model":"a","prompt":' + table + b"}", "")
    assert len(read.document["prompt"]) > VALUES_MAX


# What Ollama only carries, or reads as a map with exact keys.
CARRIED = {
    "properties of a schema that differ in case": b'{"model":"a","tools":[{"type":"function","function":{"name":"f",'
    b'"parameters":{"type":"object","properties":{"id":{"type":"string"},"ID":{"type":"string"}}}}}]}',
    "arguments that differ in case": b'{"model":"a","messages":[{"role":"assistant","tool_calls":[{"function":'
    b'{"name":"f","arguments":{"env":{"PATH":"a","Path":"b"}}}}]}]}',
    "keys of a format that differ in case": b'{"model":"a","format":{"type":"object","TYPE":"string"}}',
    "a key of a schema twice": b'{"model":"a","format":{"properties":{"a":{"type":"string"},"a":{}}}}',
    "half of a surrogate pair": b'{"model":"a","messages":[{"role":"user","content":"truncated \\ud83d"}]}',
    "half of a surrogate pair in a key": b'{"model":"a","\\udc00":1}',
    "an integer beyond 64 bits": b'{"model":"a","format":{"maximum":18446744073709551616,"minimum":-0}}',
    "an integer of five thousand digits": b'{"model":"a","format":{"const":' + b"1" * 5000 + b"}}",
    "the largest double": b'{"model":"a","tools":[{"function":{"parameters":{"maximum":1.7976931348623157E308}}}]}',
    "a float beyond all bounds": b'{"model":"a","format":{"maximum":1e400}}',
    "a schema of a hundred levels": b'{"model":"a","format":' + b'{"items":' * 100 + b"{}" + b"}" * 100 + b"}",
    "an unknown field twice": b'{"model":"a","x":1,"x":2,"X":3}',
    "metadata with the names of fields": b'{"model":"a","metadata":{"Model":"b","model":"c","STREAM":true}}',
    "an unknown option that differs in case": b'{"model":"a","options":{"mirostat":1,"Mirostat":2}}',
    "names of tools that differ in case": b'{"model":"a","tools":[{"name":"f","Name":"F","type":"function"}]}',
}


@pytest.mark.parametrize("body", CARRIED.values(), ids=CARRIED.keys())
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_what_is_only_carried_is_passed_on_as_it_is(surface: Any, body: bytes) -> None:
    read = read_request(replace(surface, cap_required=False), body, "")
    sent = rewrite(body, grant_for(surface, model=read.model, stream=False, output_cap=5 if surface.cap_field else 0))
    (name, carried), *_ = [
        (name, text) for name, text in _top_level(body) if name not in ("model", "options", "stream")
    ] or [("options", "")]
    assert (name, carried) in _top_level(sent.body) or name == "options"
    assert sent.dropped_options == ()


def _top_level(body: bytes) -> list[tuple[str, str]]:
    return [(member.name, member.value) for member in JsonObject(body.decode()).members]


def test_every_value_of_a_repeated_key_counts_in_the_estimate() -> None:
    once = b'{"model":"a","messages":[{"content":"%s"}]}' % (b"x" * 3000)
    twice = b'{"model":"a","messages":[{"content":"%s","content":""}]}' % (b"x" * 3000)
    estimates = [estimate_input(read_request(CHAT, body, "").document) for body in (once, twice)]
    assert estimates[1] >= estimates[0] >= 1000


@pytest.mark.parametrize("encoding", ["deflate", "compress", "gzip, deflate"])
def test_an_encoding_that_envoy_did_not_decode_is_denied(encoding: str) -> None:
    with pytest.raises(Denied, match="Content-Encoding"):
        read_request(CHAT, b'{"model":"a"}', encoding)


def test_a_schema_may_have_properties_of_any_name() -> None:
    schema = {"type": "object", "properties": {"Model": {"type": "string"}, "Stream": {"type": "boolean"}}}
    body = json.dumps({"model": "a", "format": schema}).encode()
    assert read_request(CHAT, body, "identity").document["format"] == schema


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_the_model_is_read_as_its_canonical_name_on_every_surface(surface: Any) -> None:
    assert read_request(surface, b'{"model":"LLAMA3.2:Latest","max_tokens":9}', "").model == "llama3.2:latest"


@pytest.mark.parametrize("name", ["gpt-oss:20b-cloud", "gpt-oss:20b:CLOUD", "llama3.2:cloud"])
def test_a_cloud_model_never_has_the_name_of_a_local_one(name: str) -> None:
    assert as_model_name(name) in ("gpt-oss:20b-cloud", "llama3.2:cloud")


def test_show_reads_the_older_field_when_there_is_no_model() -> None:
    assert read_model(b'{"name":"m"}', "") == "m:latest"
    assert read_model(b'{"name":"m","model":"n"}', "") == "n:latest"
    assert read_model(b'{"name":"m","model":""}', "") == "m:latest"


@pytest.mark.parametrize("body", [b"{}", b'{"model":""}', b'{"name":""}'])
def test_show_without_a_model_names_the_field_model(body: bytes) -> None:
    """W23 of the comparison with the real Ollama."""
    with pytest.raises(Denied, match="the field 'model' must be"):
        read_model(body, "")


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

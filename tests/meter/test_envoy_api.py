"""Envoy's ext_proc messages in, its instructions out."""

from __future__ import annotations

import json

import pytest
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import Code
from gateway.wire.names import CLUSTER_HEADER
from gateway.wire.surfaces import BY_NAME
from meter import envoy_api
from meter.exchange import Exchange
from meter.phases import Phase
from tests.meter.wire_corpus import grant_for, json_of

LINE = b'{"message":{"content":"Hi"},"done":false}\n'


def an_exchange(**grant: object) -> Exchange:
    granted = grant_for(BY_NAME["chat"], **grant)
    return Exchange(granted, json_of(granted), lambda: 0.0)


def headers_message(kind: str, headers: dict[str, str]) -> ext_proc.ProcessingRequest:
    message = ext_proc.ProcessingRequest(**{kind: ext_proc.HttpHeaders()})
    for name, value in headers.items():
        getattr(message, kind).headers.headers.add(key=name, raw_value=value.encode())
    return message


def head_of_a_backend(headers: dict[str, str]) -> ext_proc.ProcessingRequest:
    return headers_message("response_headers", {**headers, CLUSTER_HEADER: "backend:near"})


def body_message(kind: str, body: bytes, *, last: bool = False) -> ext_proc.ProcessingRequest:
    return ext_proc.ProcessingRequest(**{kind: ext_proc.HttpBody(body=body, end_of_stream=last)})


def answering(**grant: object) -> Exchange:
    exchange = an_exchange(**grant)
    envoy_api.respond(exchange, body_message("request_body", b'{"model":"m"}'))
    envoy_api.respond(exchange, head_of_a_backend({":status": "200", "content-type": "application/x-ndjson"}))
    assert exchange.phase is Phase.ANSWERING
    return exchange


@given(st.text(max_size=40), st.integers(0, 400))
@example("long", 1 << 19)
def test_the_rewritten_body_goes_out(text: str, repetitions: int) -> None:
    body = json.dumps({"model": "m", "prompt": text * repetitions}, ensure_ascii=False).encode("utf-8", "replace")
    encoded = envoy_api.respond(an_exchange(), body_message("request_body", body))
    reply = ext_proc.ProcessingResponse.FromString(encoded)
    out = json.loads(reply.request_body.response.body_mutation.body)
    assert (out["model"], out["prompt"]) == ("llama3.2:latest", json.loads(body)["prompt"])
    assert reply.ByteSize() == len(encoded)


def test_a_backends_head_reaches_the_caller_without_its_own_headers() -> None:
    exchange = an_exchange(show_backend=True)
    envoy_api.respond(exchange, body_message("request_body", b'{"model":"m"}'))
    head = {":status": "200", "content-type": "application/x-ndjson", "content-length": "9", "server": "ollama"}
    out = envoy_api.respond(exchange, head_of_a_backend(head)).response_headers.response.header_mutation
    assert list(out.remove_headers) == ["content-length", "server", CLUSTER_HEADER]
    own = {each.header.key: each.header.raw_value for each in out.set_headers}
    assert own == {":status": b"200", "x-gateway-backend": b"near"}


def test_envoys_own_reply_passes_unchanged_with_its_code_in_the_entry() -> None:
    exchange = an_exchange()
    head = headers_message("response_headers", {":status": "503"})
    assert envoy_api.respond(exchange, head) == envoy_api.untouched("response_headers")
    assert (exchange.phase, exchange.close().entry.code) == (Phase.LOCAL_REPLY, "unavailable")


def test_a_busy_server_has_ollamas_status_again() -> None:
    exchange = an_exchange()
    envoy_api.respond(exchange, body_message("request_body", b'{"model":"m"}'))
    head = head_of_a_backend({":status": "521", "content-type": "application/json"})
    out = envoy_api.respond(exchange, head).response_headers.response.header_mutation
    own = {each.header.key: each.header.raw_value for each in out.set_headers}
    assert (own[":status"], own["x-gateway-error"]) == (b"503", b"backend_unavailable")
    assert exchange.close().entry.status == 503


def test_a_chunk_passes_unchanged_or_empty_or_as_other_bytes() -> None:
    exchange = answering()
    assert envoy_api.respond(exchange, body_message("response_body", LINE)) == envoy_api.untouched("response_body")
    held = envoy_api.respond(exchange, body_message("response_body", LINE[:9])).response_body.response.body_mutation
    assert held.clear_body
    rest = envoy_api.respond(exchange, body_message("response_body", LINE[9:])).response_body.response.body_mutation
    assert rest.body == LINE


def test_a_whole_answer_is_buffered_and_becomes_an_error_that_passes_the_other_filters() -> None:
    exchange = an_exchange(stream=False)
    envoy_api.respond(exchange, body_message("request_body", b'{"model":"m"}'))
    head = {":status": "200", "content-type": "application/json", "x-nz-held-whole": "1"}
    out = envoy_api.respond(exchange, head_of_a_backend(head))
    assert out.mode_override.response_body_mode == processing_mode_pb2.ProcessingMode.BUFFERED
    body = b'{"message":{"content":"Hi"} "done":true}'
    error = envoy_api.respond(exchange, body_message("response_body", body, last=True)).response_body.response
    own = {each.header.key: each.header.raw_value for each in error.header_mutation.set_headers}
    assert own == {":status": b"502", "content-type": b"application/json", "x-gateway-error": b"backend_error"}
    assert json.loads(error.body_mutation.body) == {"error": "the model backend failed to answer"}
    entry = exchange.close().entry
    assert (entry.status, entry.code, entry.output_tokens) == (502, "backend_error", 0)


def test_a_message_after_a_cut_is_answered_with_an_error_on_which_envoy_closes_both_sides() -> None:
    exchange = answering()
    exchange.lose_lease()
    out = envoy_api.respond(exchange, body_message("response_body", LINE)).immediate_response
    assert (out.status.code, out.details) == (502, "backend_error")
    assert json.loads(out.body) == {"error": "the model backend failed to answer"}


@pytest.mark.parametrize("kind", ["request_trailers", "response_trailers"])
def test_trailers_pass_unchanged(kind: str) -> None:
    message = ext_proc.ProcessingRequest(**{kind: ext_proc.HttpTrailers()})
    assert envoy_api.respond(an_exchange(), message).WhichOneof("response") == kind


def test_a_request_without_an_exchange_is_denied_in_the_dialect_of_its_path() -> None:
    grant = grant_for(BY_NAME["v1_messages"], request_id="req-9")
    out = envoy_api.deny_unopened(Code.UNAVAILABLE, grant).immediate_response
    assert out.status.code == 503
    assert json.loads(out.body)["request_id"] == "req-9"

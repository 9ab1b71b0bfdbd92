"""The compiled hold filter in wasmtime instead of Envoy, for cases that would take a real Envoy too long."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import Caller, Config, Engine, Func, FuncType, Instance, Memory, Module, Store, ValType

from gateway.record.grant import METADATA_NAMESPACE, TRIES_KEY
from gateway.rpc.message_sizes import HELD_BYTES_MAX
from gateway.wire.media_types import EVENTS as SSE
from gateway.wire.media_types import JSON as JSON_TYPE
from gateway.wire.media_types import NDJSON, accepted_type
from gateway.wire.names import FURTHER_ATTEMPT_HEADER, HELD_WHOLE_HEADER, NOT_AN_ANSWER, RETRY_AFTER_HEADER, SERVER_BUSY
from gateway.wire.surfaces import BY_NAME, SURFACES, Surface
from meter.frames import recognition
from meter.frames.readers import read_frame
from ops.data_plane.hold_filter import HOLD_RESPONSE_WAT
from tests.meter.wire_corpus import Transcript, transcripts

CONTINUE, PAUSE = 0, 1
OK, NOT_FOUND, INVALID_MEMORY_ACCESS = 0, 1, 6
REQUEST_HEADERS, RESPONSE_HEADERS = 0, 2
RESPONSE_BODY, PLUGIN_CONFIGURATION = 1, 7
PAGE = 65_536
NODES_PER_PAGE = PAGE // 128
CALL_FUEL, FUEL_PER_BYTE = 5_000_000, 500
"""The bound of instructions per call, so that a cycle in a hash chain traps instead of hanging."""

ENGINE_CONFIG = Config()
ENGINE_CONFIG.consume_fuel = True
ENGINE = Engine(ENGINE_CONFIG)
MODULE = Module.from_file(ENGINE, str(HOLD_RESPONSE_WAT.with_suffix(".wasm")))


class Host:
    """One instance, and Envoy's side of its host calls, which write to memory that the module allocates."""

    def __init__(self, *, memory_bytes_max: int = -1) -> None:
        self._store = Store(ENGINE)
        self._store.set_limits(memory_size=memory_bytes_max)
        self._store.set_fuel(CALL_FUEL)
        i32 = ValType.i32()
        host_call = FuncType([i32] * 5, [i32])
        imports = [
            Func(self._store, host_call, call, access_caller=True)
            for call in (self._get_header_map_value, self._replace_header_map_value, self._get_buffer_bytes)
        ]
        imports += (
            Func(self._store, FuncType([i32] * count, [i32]), call, access_caller=True)
            for count, call in (
                (4, self._get_property),
                (4, self._set_property),
                (1, self._get_time),
                (8, self._send_local_response),
            )
        )
        self._exports = Instance(self._store, MODULE, imports).exports(self._store)
        memory = self._exports["memory"]
        assert isinstance(memory, Memory)
        self._memory = memory
        self._maps: dict[int, dict[bytes, bytes]] = {REQUEST_HEADERS: {}, RESPONSE_HEADERS: {}}
        self._body = b""
        # What Envoy knows about the request, by path.
        self.properties: dict[bytes, bytes] = {}
        self.local_responses: list[int] = []
        self.now_ns = 1

    def _call(self, name: str, *arguments: int) -> int:
        function = self._exports[name]
        assert isinstance(function, Func)
        self._store.set_fuel(CALL_FUEL + FUEL_PER_BYTE * len(self._body))
        result = function(self._store, *arguments)
        return result if isinstance(result, int) else 0

    def _write(self, caller: Caller, value: bytes, value_address: int, value_size: int) -> int:
        address = 0
        if value:
            address = self._call("proxy_on_memory_allocate", len(value))
            if not address:
                return INVALID_MEMORY_ACCESS
            self._memory.write(caller, value, address)
        self._memory.write(caller, address.to_bytes(4, "little"), value_address)
        self._memory.write(caller, len(value).to_bytes(4, "little"), value_size)
        return OK

    def _get_header_map_value(
        self, caller: Caller, headers: int, key: int, key_size: int, value_address: int, value_size: int
    ) -> int:
        value = self._maps[headers].get(bytes(self._memory.read(caller, key, key + key_size)))
        return NOT_FOUND if value is None else self._write(caller, value, value_address, value_size)

    def _replace_header_map_value(
        self, caller: Caller, headers: int, key: int, key_size: int, value: int, value_size: int
    ) -> int:
        name = bytes(self._memory.read(caller, key, key + key_size))
        self._maps[headers][name] = bytes(self._memory.read(caller, value, value + value_size))
        return OK

    def _get_buffer_bytes(
        self, caller: Caller, buffer: int, start: int, size: int, value_address: int, value_size: int
    ) -> int:
        assert buffer in (RESPONSE_BODY, PLUGIN_CONFIGURATION)
        return self._write(caller, self._body[start : start + size], value_address, value_size)

    def _get_property(self, caller: Caller, path: int, path_size: int, value_address: int, value_size: int) -> int:
        value = self.properties.get(bytes(self._memory.read(caller, path, path + path_size)))
        return NOT_FOUND if value is None else self._write(caller, value, value_address, value_size)

    def _set_property(self, caller: Caller, name: int, name_size: int, value: int, value_size: int) -> int:
        key = bytes(self._memory.read(caller, name, name + name_size))
        self.properties[key] = bytes(self._memory.read(caller, value, value + value_size))
        return OK

    def _get_time(self, caller: Caller, address: int) -> int:
        self._memory.write(caller, self.now_ns.to_bytes(8, "little"), address)
        return OK

    def configure(self, timeout_ms: str) -> None:
        """Sets the timeout of an attempt."""
        self._body = timeout_ms.encode()
        assert self._call("proxy_on_configure", 1, len(self._body)) == 1

    def _send_local_response(self, caller: Caller, status: int, *sizes: int) -> int:  # noqa: ARG002
        self.local_responses.append(status)
        return OK

    @property
    def response(self) -> dict[bytes, bytes]:
        """The headers of the response as the module left them."""
        return self._maps[RESPONSE_HEADERS]

    @property
    def requested(self) -> dict[bytes, bytes]:
        """The headers of the request as the module left them."""
        return self._maps[REQUEST_HEADERS]

    def request(self, stream: int, path: str, accept: str = "") -> int:
        self._maps[REQUEST_HEADERS] = {b":path": path.encode(), **({b"accept": accept.encode()} if accept else {})}
        return self._call("proxy_on_request_headers", stream, 1, 0)

    def answers(self, path: str, accept: str, headers: dict[bytes, bytes], chunks: list[bytes]) -> bytes:
        """The status with which an answer in these chunks passes. The last chunk ends it."""
        self.request(1, path, accept)
        self._maps[RESPONSE_HEADERS] = {b":status": b"200", **headers}
        self._body = b""
        decision = self._call("proxy_on_response_headers", 1, 1, int(not chunks))
        for number, piece in enumerate(chunks, 1):
            self._body += piece
            decision = self.body(1, len(self._body), end=number == len(chunks))
            if decision == CONTINUE:
                break
        assert decision == CONTINUE
        self.delete(1)
        return self.response[b":status"]

    @property
    def pages(self) -> int:
        return self._memory.size(self._store)

    def headers(self, stream: int, content_type: bytes | None, *, end: bool = False) -> int:
        self._maps[RESPONSE_HEADERS] = {} if content_type is None else {b"content-type": content_type}
        return self._call("proxy_on_response_headers", stream, 1, int(end))

    def body(self, stream: int, held_bytes: int = 1, *, end: bool = False) -> int:
        return self._call("proxy_on_response_body", stream, held_bytes, int(end))

    def delete(self, stream: int) -> None:
        assert self._call("proxy_on_done", stream) == 1
        self._call("proxy_on_delete", stream)


JSON = b"application/json"
MEDIA_TYPES = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.builds(bytes.__add__, st.sampled_from([JSON, b"Application/JSON", JSON[:-1]]), st.binary(max_size=4)),
    st.integers(0, 15).flatmap(
        lambda at: st.builds(lambda byte: JSON[:at] + bytes([byte]) + JSON[at + 1 :], st.integers(0x20, 0xFF))
    ),
)


@given(MEDIA_TYPES)
def test_exactly_responses_of_the_media_type_application_json_are_held_to_their_end(content_type: bytes | None) -> None:
    host = Host()
    assert host.headers(1, content_type) == PAUSE
    is_json = re.fullmatch(rb"application/json([; \t].*)?", content_type or b"", re.IGNORECASE | re.DOTALL)
    assert host.body(1) == (PAUSE if is_json else CONTINUE)
    assert host.body(1, end=True) == CONTINUE


# Three ids share their low 12 bits, and two of these their low 16 bits. The last two are the bounds of the range.
STREAMS = (1, 4097, 65_537, 0, 2**32 - 1)
EVENTS = st.tuples(st.sampled_from(["json", "json", "stream", "delete", "outgrow"]), st.sampled_from(STREAMS))


@given(st.lists(EVENTS, min_size=8, max_size=30))
def test_streams_are_held_by_their_exact_id_in_any_order_of_events(events: list[tuple[str, int]]) -> None:
    host, held = Host(), set[int]()
    for event, stream in events:
        if event == "json":
            assert host.headers(stream, JSON) == PAUSE
            held.add(stream)
        elif event == "stream":
            assert host.headers(stream, b"application/x-ndjson") == PAUSE
            held.discard(stream)
        elif event == "delete":
            host.delete(stream)
            held.discard(stream)
        else:
            assert host.body(stream, HELD_BYTES_MAX + 1) == CONTINUE
            held.discard(stream)
        for each in STREAMS:
            assert host.body(each) == (PAUSE if each in held else CONTINUE)


def test_more_streams_than_nodes_of_a_page_are_held_and_their_memory_is_reused() -> None:
    host, streams, later = Host(), range(1, NODES_PER_PAGE + 100), 1_000_000
    for stream in streams:
        host.headers(stream, JSON)
    assert all(host.body(stream) == PAUSE for stream in streams[::7])
    pages = host.pages
    for stream in streams:
        host.delete(stream)
        host.headers(later + stream, JSON)
    assert all(host.body(stream) == CONTINUE for stream in streams[::7])
    assert all(host.body(later + stream) == PAUSE for stream in streams[::7])
    assert host.pages == pages == 4


def test_without_memory_another_response_is_streamed_and_the_others_stay_held() -> None:
    host = Host(memory_bytes_max=3 * PAGE)
    for stream in range(NODES_PER_PAGE + 1):
        assert host.headers(stream, JSON) == PAUSE
    assert host.body(NODES_PER_PAGE) == CONTINUE
    assert all(host.body(stream) == PAUSE for stream in range(0, NODES_PER_PAGE, 7))
    host.delete(0)
    assert host.headers(NODES_PER_PAGE + 1, JSON) == PAUSE
    assert host.body(NODES_PER_PAGE + 1) == PAUSE


@pytest.mark.parametrize(("size", "decision"), [(PAGE, PAUSE), (PAGE + 1, CONTINUE), (2**20, CONTINUE), (0, CONTINUE)])
def test_a_header_value_of_any_size_is_read_or_ignored(size: int, decision: int) -> None:
    host = Host()
    assert host.headers(1, (JSON + b";").ljust(size, b"x")[:size]) == PAUSE
    assert host.body(1) == decision


def test_a_held_response_that_exceeds_the_bound_is_released_permanently() -> None:
    host = Host()
    host.headers(1, JSON)
    assert host.body(1, HELD_BYTES_MAX) == PAUSE
    assert host.body(1, HELD_BYTES_MAX + 1) == CONTINUE
    assert host.body(1, 1) == CONTINUE


def test_an_empty_chunk_does_not_count_as_the_first_byte() -> None:
    host = Host()
    host.headers(1, b"application/x-ndjson")
    assert host.body(1, 0) == PAUSE
    assert host.body(1, 1) == CONTINUE
    assert host.body(1, 0, end=True) == CONTINUE


def test_a_response_of_headers_only_passes_and_leaves_no_state() -> None:
    host = Host()
    assert host.headers(1, JSON, end=True) == CONTINUE
    assert host.body(1) == CONTINUE


BUSY_BODY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'
ATTEMPT = b"upstream\0request_attempt_count"
TRIES = b"\0".join([b"metadata", b"filter_metadata", METADATA_NAMESPACE.encode(), TRIES_KEY.encode()])
UNAVAILABLE = {b":status": b"503", b"content-type": JSON}


def attempt(host: Host, number: int, tries: int | None = None) -> Host:
    """The host before this attempt of its request."""
    host.properties[ATTEMPT] = number.to_bytes(8, "little")
    if tries is not None:
        host.properties[TRIES] = str(tries).encode()
    return host


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (BUSY_BODY, SERVER_BUSY),
        (b"maximum pending requests exceeded", SERVER_BUSY),
        (b" " * (1024 - 33) + BUSY_BODY[-35:-2], SERVER_BUSY),
        (b" " * (1025 - 33) + BUSY_BODY[-35:-2], 503),
        (BUSY_BODY[:-3], 503),
        (b"maximum pending requests exceede", 503),
        (b"{}", 503),
        (b"", 503),
    ],
)
def test_a_503_with_the_sentence_of_a_busy_server_gets_another_status(body: bytes, status: int) -> None:
    for chunks in ([body], [body[:40], body[40:]]):
        assert Host().answers("/api/chat", "", UNAVAILABLE, chunks) == str(status).encode()


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({b":status": b"500"}, "/api/chat"),
        ({b":status": b"502"}, "/api/chat"),
        ({b"content-type": b"text/plain"}, "/api/chat"),
        ({}, "/api/version"),
    ],
)
def test_the_sentence_counts_in_a_503_of_a_surface_only(headers: dict[bytes, bytes], path: str) -> None:
    sent = {**UNAVAILABLE, **headers}
    assert Host().answers(path, "", sent, [BUSY_BODY]) == sent[b":status"]


@pytest.mark.parametrize(("number", "tries", "waits"), [(1, 1, True), (1, 2, False), (2, 2, True), (3, 2, True)])
def test_a_busy_server_is_tried_again_after_a_back_off_when_the_list_is_used(
    number: int, tries: int, waits: bool
) -> None:
    host = Host()
    if number > tries:
        attempt(host, tries, tries).answers("/api/chat", "", UNAVAILABLE, [BUSY_BODY])
    assert attempt(host, number, tries).answers("/api/chat", "", UNAVAILABLE, [BUSY_BODY]) == b"521"
    assert (host.response.get(RETRY_AFTER_HEADER.encode()) == b"1") is waits
    assert b"x-envoy-ratelimited" not in host.response


@pytest.mark.parametrize("status", [b"500", b"502", b"503", b"504", b"520"])
@pytest.mark.parametrize(("number", "tries", "is_final"), [(1, None, False), (1, 2, False), (2, 2, True), (1, 1, True)])
def test_any_other_failure_of_the_last_candidate_is_final(
    status: bytes, number: int, tries: int | None, is_final: bool
) -> None:
    headers = {b":status": b"200" if status == b"520" else status, b"content-type": JSON}
    host = attempt(Host(), number, tries)
    assert host.answers("/api/chat", "", headers, [b"[]"]) == status
    assert (b"x-envoy-ratelimited" in host.response) is is_final


@pytest.mark.parametrize(("number", "tries", "is_marked"), [(1, 2, False), (2, 2, True), (2, None, False)])
def test_each_further_attempt_of_a_request_with_a_slot_is_marked(
    number: int, tries: int | None, is_marked: bool
) -> None:
    host = attempt(Host(), number, tries)
    host.request(1, "/api/chat")
    assert (FURTHER_ATTEMPT_HEADER.encode() in host.requested) is is_marked


@pytest.mark.parametrize(("timeout_ms", "lasts_ms", "status"), [("80", 70, 504), ("80", 69, 503), ("", 70, 503)])
def test_an_attempt_after_the_timeout_of_the_last_candidate_is_answered_as_a_timeout(
    timeout_ms: str, lasts_ms: int, status: int
) -> None:
    host = Host()
    host.configure(timeout_ms)
    attempt(host, 1, 1).request(1, "/api/chat")
    host.now_ns += lasts_ms * 1_000_000
    host.delete(1)
    assert attempt(host, 2, 1).request(2, "/api/chat") == PAUSE
    assert host.local_responses == [status]


@pytest.mark.parametrize("tries", [None, 2])
def test_an_attempt_beyond_the_list_needs_a_busy_server_before_it(tries: int | None) -> None:
    host = Host()
    for number in (1, 2):
        assert attempt(host, number, tries).request(number, "/api/chat") == CONTINUE
    assert attempt(host, 3, tries).request(3, "/api/chat") == (CONTINUE if tries is None else PAUSE)
    assert host.local_responses == ([] if tries is None else [503])
    again = Host()
    attempt(again, 2, 2).answers("/api/chat", "", UNAVAILABLE, [BUSY_BODY])
    assert attempt(again, 3, 2).request(3, "/api/chat") == CONTINUE
    assert attempt(again, 4, 2).request(4, "/api/chat") == PAUSE


EXAMPLES: dict[type, object] = {dict: {}, str: "", list: [], type(None): None}
REJECTED = str(NOT_AN_ANSWER).encode()
JSON_HEADERS, NDJSON_HEADERS, SSE_HEADERS = ({b"content-type": kind.encode()} for kind in (JSON_TYPE, NDJSON, SSE))
HEADERS = {JSON_TYPE: JSON_HEADERS, NDJSON: NDJSON_HEADERS, SSE: SSE_HEADERS}


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_needs_the_member_that_the_meter_requires_with_a_value_of_its_types(
    surface: Surface, whole: bool
) -> None:
    member = (recognition.WHOLE if whole else recognition.FIRST_FRAME).get(surface.answer_shape)
    if member is None:
        return
    accept = accepted_type(surface, stream=not whole)
    for kind, value in EXAMPLES.items():
        text = json.dumps({"model": "m", member.name: value, "more": [{"error": 1}]}).encode()
        body = b"event: x\ndata: " + text + b"\n\n" if accept == SSE else text + b"\n"
        expected = b"200" if kind in member.types else REJECTED
        assert Host().answers(surface.path, accept, HEADERS[accept], [body]) == expected, (member, value)
        assert Host().answers("/ollama" + surface.path, accept, HEADERS[accept], [body]) == expected


GOOD = b'{"model":"m","message":{"role":"assistant","content":"\\"}{"},"done":true}'


@pytest.mark.parametrize("headers", [
    {b"content-type": b"text/html"}, {}, {**JSON_HEADERS, b"content-encoding": b"gzip"}, SSE_HEADERS,
    {**JSON_HEADERS, b":status": b"201"}, {**JSON_HEADERS, b":status": b"204"}, NDJSON_HEADERS,
])  # fmt: skip
def test_the_head_of_an_answer_decides_as_well(headers: dict[bytes, bytes]) -> None:
    assert Host().answers("/api/chat", JSON_TYPE, JSON_HEADERS, [GOOD]) == b"200"
    assert Host().answers("/api/chat", JSON_TYPE, headers, [GOOD]) == REJECTED
    assert Host().answers("/api/chat", JSON_TYPE, JSON_HEADERS, []) == REJECTED


def test_an_error_of_a_backend_keeps_its_status() -> None:
    headers = {**JSON_HEADERS, b":status": b"404"}
    assert Host().answers("/api/chat", JSON_TYPE, headers, [b"{}"]) == b"404"


def test_a_whole_answer_is_marked_for_the_meter_and_a_stream_is_not() -> None:
    for accept, headers in ((JSON_TYPE, JSON_HEADERS), (NDJSON, NDJSON_HEADERS)):
        host = Host()
        assert host.answers("/api/chat", accept, headers, [GOOD]) == b"200"
        assert (HELD_WHOLE_HEADER.encode() in host.response) == (accept == JSON_TYPE)


@pytest.mark.parametrize("body", [
    b"null", b"[]", b"5", b'"{"', b"<html>", b" ", b"\x1f\x8b\x08", GOOD[:-1], GOOD + b"x", GOOD + GOOD,
    b"\xef\xbb\xbf" + GOOD,
    b'{"error":"x"}', b'{"error":{"message":"x"},"message":{}}', b'{"model":"","message":{}}', b'{"choices":[]}', b"{}",
    b'{"done":true,"x":{"message":{}}}', b'{"MESSAGE":{}}', b'{"message":"x"}', b'{"messages":{}}',
    b'{"x":"message","y":{}}',
])  # fmt: skip
def test_a_body_that_is_no_answer_is_rejected_wherever_it_is_cut(body: bytes) -> None:
    for at in range(len(body) + 1):
        assert Host().answers("/api/chat", JSON_TYPE, JSON_HEADERS, [body[:at], body[at:]]) == REJECTED


@pytest.mark.parametrize("exchange", [each for each in transcripts() if each.status == 200], ids=lambda each: each.name)
def test_no_real_answer_is_rejected_unless_it_begins_with_an_error(exchange: Transcript) -> None:
    headers = {b"content-type": exchange.content_type.encode()}
    is_stream = "json;" not in exchange.content_type and exchange.content_type != JSON_TYPE
    accept = accepted_type(exchange.surface, stream=is_stream)
    for step in (1, 7, 100_000):
        chunks = [exchange.body[at : at + step] for at in range(0, len(exchange.body), step)]
        assert Host().answers(exchange.surface.path, accept, headers, chunks) == b"200"


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["message", "error", "model", "done", "a"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(DOCUMENTS, st.integers(0, 60), st.sampled_from([None, 1]))
def test_the_filter_and_the_meter_agree_on_a_well_formed_document(
    document: object, at: int, indent: int | None
) -> None:
    body = json.dumps(document, indent=indent).encode()
    read = read_frame(BY_NAME["chat"], body, whole=True)
    expected = REJECTED if read.unreadable or read.error is not None else b"200"
    assert Host().answers("/api/chat", JSON_TYPE, JSON_HEADERS, [body[:at], body[at:]]) == expected


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,\\ea \n').map(str.encode), st.integers(0, 40))
def test_what_the_filter_rejects_the_meter_rejects(body: bytes, at: int) -> None:
    body = b'{"message":{},' + body if at % 2 else body
    passed = Host().answers("/api/chat", JSON_TYPE, JSON_HEADERS, [body[:at], body[at:]])
    read = read_frame(BY_NAME["chat"], body, whole=True)
    if body and not read.unreadable and read.error is None:
        assert passed == b"200"


@pytest.mark.parametrize("body", [
    b": comment\n\nevent: x\r\ndata: {\"choices\":[]}\r\n\r\n", b"data:{\"choices\":[]}\n\n",
    b"\n\ndata: \ndata: {\"choices\":[]}",
])  # fmt: skip
def test_the_first_event_is_found_after_other_lines(body: bytes) -> None:
    for at in range(len(body)):
        assert Host().answers("/v1/chat/completions", SSE, SSE_HEADERS, [body[:at], body[at:]]) == b"200"


@pytest.mark.parametrize(
    "body", [b"data: [DONE]\n\n", b"choices: {}\n\n", b"<html>\n", b'data: {"error":{}}\n\n', b"data: {"]
)
def test_a_stream_without_a_first_event_is_rejected(body: bytes) -> None:
    for at in range(len(body)):
        assert Host().answers("/v1/chat/completions", SSE, SSE_HEADERS, [body[:at], body[at:]]) == REJECTED


@pytest.mark.parametrize(("start", "expected"), [(b'{"embeddings":[', b"200"), (b'{"vectors":[', REJECTED)])
def test_an_answer_too_long_to_hold_passes_when_its_member_was_seen(start: bytes, expected: bytes) -> None:
    chunks = [start.ljust(HELD_BYTES_MAX, b" "), b" ", b"more"]
    assert Host().answers("/api/embed", JSON_TYPE, JSON_HEADERS, chunks) == expected

"""The compiled hold filter in wasmtime instead of Envoy, for cases that would take a real Envoy too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import Caller, Config, Engine, Func, FuncType, Instance, Memory, Module, Store, ValType

from gateway.rpc.message_sizes import HELD_BYTES_MAX
from ops.data_plane.hold_filter import HOLD_RESPONSE_WAT

CONTINUE, PAUSE = 0, 1
OK, NOT_FOUND, INVALID_MEMORY_ACCESS = 0, 1, 6
RESPONSE_HEADERS = 2
PAGE = 65_536
NODES_PER_PAGE = PAGE // 8
CALL_FUEL = 10_000
"""The bound of instructions per call, so that a cycle in a hash chain traps instead of hanging."""

ENGINE_CONFIG = Config()
ENGINE_CONFIG.consume_fuel = True
ENGINE = Engine(ENGINE_CONFIG)
MODULE = Module.from_file(ENGINE, str(HOLD_RESPONSE_WAT.with_suffix(".wasm")))


class Host:
    """One instance, and Envoy's side of its only host call, which writes a header to memory allocated by the module."""

    def __init__(self, *, memory_bytes_max: int = -1) -> None:
        self._store = Store(ENGINE)
        self._store.set_limits(memory_size=memory_bytes_max)
        self._store.set_fuel(CALL_FUEL)
        i32 = ValType.i32()
        get = Func(self._store, FuncType([i32] * 5, [i32]), self._get_header_map_value, access_caller=True)
        self._exports = Instance(self._store, MODULE, [get]).exports(self._store)
        memory = self._exports["memory"]
        assert isinstance(memory, Memory)
        self._memory = memory
        self._content_type: bytes | None = None

    def _call(self, name: str, *arguments: int) -> int:
        function = self._exports[name]
        assert isinstance(function, Func)
        self._store.set_fuel(CALL_FUEL)
        result = function(self._store, *arguments)
        return result if isinstance(result, int) else 0

    def _get_header_map_value(
        self, caller: Caller, headers: int, key: int, key_size: int, value_address: int, value_size: int
    ) -> int:
        assert headers == RESPONSE_HEADERS
        assert self._memory.read(caller, key, key + key_size) == b"content-type"
        value, address = self._content_type, 0
        if value is None:
            return NOT_FOUND
        if value:
            address = self._call("proxy_on_memory_allocate", len(value))
            if not address:
                return INVALID_MEMORY_ACCESS
            self._memory.write(caller, value, address)
        self._memory.write(caller, address.to_bytes(4, "little"), value_address)
        self._memory.write(caller, len(value).to_bytes(4, "little"), value_size)
        return OK

    @property
    def pages(self) -> int:
        return self._memory.size(self._store)

    def headers(self, stream: int, content_type: bytes | None, *, end: bool = False) -> int:
        self._content_type = content_type
        return self._call("proxy_on_response_headers", stream, 1, int(end))

    def body(self, stream: int, held_bytes: int = 1, *, end: bool = False) -> int:
        return self._call("proxy_on_response_body", stream, held_bytes, int(end))

    def delete(self, stream: int) -> None:
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

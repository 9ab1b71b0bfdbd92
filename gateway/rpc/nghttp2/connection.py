"""One connection: bytes of a socket to events of nghttp2, events to calls, and queued frames back to the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

import ngh2
import structlog

from gateway.rpc.methods import Message, Method, RpcError, Status, Unary
from gateway.rpc.nghttp2 import headers
from gateway.rpc.nghttp2.calls import Call, StreamingCall, UnaryCall

log = structlog.get_logger()

# Envoy opens another connection when it needs more.
STREAMS_MAX = 10_000
# What the peer may send before the server has handled it, per stream and per connection.
STREAM_WINDOW_BYTES = 256 << 10
CONNECTION_WINDOW_BYTES = 64 << 20
# A call is congested, and handles no more messages, while this much of its replies waits for the peer.
QUEUED_BYTES_MAX = 256 << 10
_WRITE_BYTES = 256 << 10
# How late a deadline may be noticed, so that many of them do not cost much CPU.
DEADLINE_RESOLUTION_S = 0.02
# A peer that sends nothing for this time receives a PING, and is disconnected when it sends nothing for another one.
KEEPALIVE_S = 20.0
_DRAINING = b"draining"

_CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    # Envoy ends every ext_proc stream with RST_STREAM, which nghttp2's default takes for a rapid reset attack
    # (CVE-2023-44487) after 1,000 requests. Every peer of this server is trusted: it has a certificate, the right to
    # open the socket file, or it is on the loopback interface.
    stream_reset_rate_limit=(1 << 62, 1 << 62),
    glitch_rate_limit=(100_000, 10_000),
)
_SETTINGS = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
    ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
    ngh2.Setting.MAX_HEADER_LIST_SIZE: _CONFIGURATION.max_inbound_header_list_size,
}


class Stream:
    """See `gateway.rpc.nghttp2.calls.Stream`.

    nghttp2 raises for a stream that the peer has reset in the same read, before the event of the reset is handled.
    """

    __slots__ = ("_connection", "_http2", "_responding", "call", "id", "requested")

    def __init__(self, connection: Connection, http2: ngh2.Connection, stream_id: int) -> None:
        self.id = stream_id
        self.call: Call | None = None
        # Whether the peer has ended its side.
        self.requested = False
        self._connection = connection
        self._http2 = http2
        self._responding = False

    def send(self, data: bytes) -> None:
        """See calls.Stream."""
        try:
            if not self._responding:
                self._responding = True
                self._http2.send_response(self.id, headers.RESPONSE)
            self._http2.send_data(self.id, data)
        except ngh2.NGH2Error:
            return
        self._connection.flush_soon()

    def end(self, status: Status, message: str) -> None:
        """See calls.Stream. A response that the peer does not read is cut off, unless its status is OK."""
        fields = headers.OK_TRAILERS if status is Status.OK else headers.trailers(status, message)
        try:
            if status is not Status.OK and self.congested:
                self._http2.reset_stream(self.id, ngh2.ErrorCode.CANCEL)
            elif self._responding:
                self._http2.send_trailers(self.id, fields)
            else:
                self._http2.send_response(self.id, [*headers.RESPONSE, *fields], end_stream=True)
        except ngh2.NGH2Error:
            return
        self._connection.ended(self)

    def refuse(self) -> None:
        """Answers a request that is not one of gRPC."""
        try:
            self._http2.send_response(self.id, headers.UNSUPPORTED_MEDIA_TYPE, end_stream=True)
        except ngh2.NGH2Error:
            return
        self._connection.ended(self)

    @property
    def congested(self) -> bool:
        """See calls.Stream."""
        try:
            if self._http2.queued_body_size(self.id) <= QUEUED_BYTES_MAX:
                return False
        except ngh2.NGH2Error:
            return False
        self._connection.congested.add(self)
        return True

    def acknowledge(self, size: int) -> None:
        """See calls.Stream."""
        try:
            self._http2.acknowledge_received_data(size, self.id)
        except ngh2.NGH2Error:
            return
        self._connection.flush_soon()

    def close(self) -> None:
        """Cancels the call when the stream is closed.

        The call has a reference to the stream. Without one in the other direction, its messages and its session are
        freed at once, and not by a later garbage collection.
        """
        call, self.call = self.call, None
        if call is not None:
            call.cancel()

    def hold(self, task: asyncio.Future[Message | None]) -> None:
        """See calls.Stream."""
        self._connection.tasks.add(task)

    def release(self, task: asyncio.Future[Message | None]) -> None:
        """See calls.Stream."""
        self._connection.tasks.discard(task)


class Connection(asyncio.Protocol):
    """Serves `methods`, by path, to one peer. `connections` and `tasks` are the server's; it adds and removes itself.

    An error of one stream ends that stream. Only what breaks HTTP/2 for all streams ends the connection.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        message_bytes_max: int,
        connections: set[Connection],
        tasks: set[asyncio.Future[Message | None]],
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self.congested: set[Stream] = set()
        self.tasks = tasks
        self._methods = methods
        self._message_bytes_max = message_bytes_max
        self._connections = connections
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._streams: dict[int, Stream] = {}
        # Streams whose response has ended before the request.
        self._half_open: set[int] = set()
        self._receivers: Mapping[type[ngh2.Event], Callable[[Any], None]] = {
            ngh2.RequestReceived: self._on_request,
            ngh2.DataReceived: self._on_data,
            ngh2.TrailersReceived: self._on_trailers,
            ngh2.StreamReset: self._on_reset,
            ngh2.StreamClosed: self._on_closed,
            ngh2.PingAcknowledged: self._on_ping_acknowledged,
        }
        self._transport: asyncio.Transport | None = None
        # Expires at the earliest deadline of the calls, or earlier. A timer for each call would cost more.
        self._expiry: asyncio.TimerHandle | None = None
        self._flushing_soon = False
        self._writing_paused = False
        self._draining = False
        self._refusing = False
        self._active = True
        self._probing = False
        self.lost: asyncio.Future[None] = self._loop.create_future()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the settings. A TLS peer that has not selected `h2` by ALPN is disconnected."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._keepalive = self._loop.call_later(self._keepalive_s, self._check_peer)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
            transport.close()
            return
        self._http2.initiate_connection(_SETTINGS)
        self._http2.set_local_window_size(CONNECTION_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Handles what the peer sends, and writes the replies at once."""
        self._active = True
        try:
            self._http2.receive_data(data)
        except ngh2.NGH2Error as error:
            self._break(error)
            return
        # The flush below sends what the events queue.
        self._flushing_soon = True
        self._handle_events()
        self._flush()

    def pause_writing(self) -> None:
        """Stops reading too, so that a peer that reads nothing cannot make the server queue more."""
        self._writing_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Continues in both directions."""
        self._writing_paused = False
        # The peer has read something.
        self._active = True
        if self._transport is not None:
            self._transport.resume_reading()
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        """Cancels the calls."""
        self._transport = None
        self._keepalive.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._cancel_calls()
        self._connections.discard(self)
        self.lost.set_result(None)

    # What the server calls.

    def drain(self) -> None:
        """Ends endless calls and notifies the peer that it must open no more.

        The connection is closed when the peer has read the notice and has no calls.
        """
        self._draining = True
        for stream in list(self._streams.values()):
            if stream.call is not None and stream.call.endless:
                stream.call.fail(Status.UNAVAILABLE, "the server stops")
        # RFC 9113, section 6.8: calls that the peer has opened before it reads the notice are still served.
        self._send_control(self._http2.send_shutdown_notice)
        self._send_control(lambda: self._http2.ping(_DRAINING))
        self._flush()

    def end_calls(self) -> None:
        """Ends every call with UNAVAILABLE, and refuses new ones."""
        self._refuse()
        for stream in list(self._streams.values()):
            if stream.call is not None:
                stream.call.fail(Status.UNAVAILABLE, "the server stops")
        self._flush()

    def abort(self) -> None:
        """Closes the connection without waiting for its unsent bytes."""
        if self._transport is not None:
            self._transport.abort()

    # What the streams call.

    def flush_soon(self) -> None:
        """Writes what is queued, at the latest at the end of this turn of the event loop."""
        if not self._flushing_soon:
            self._flushing_soon = True
            self._loop.call_soon(self._flush)

    def ended(self, stream: Stream) -> None:
        """Notes that the response of a stream has ended, which resets a request that has not."""
        if not stream.requested:
            self._half_open.add(stream.id)
        self.flush_soon()

    # Events

    def _handle_events(self) -> None:
        for event in self._http2.events():
            if receiver := self._receivers.get(type(event)):
                receiver(event)

    def _on_request(self, event: ngh2.RequestReceived) -> None:
        stream = self._streams[event.stream_id] = Stream(self, self._http2, event.stream_id)
        stream.requested = event.end_stream
        try:
            request = headers.read_request(event.headers)
            stream.call = call = self._open_call(stream, request)
        except headers.NotGrpc:
            stream.refuse()
            return
        except RpcError as error:
            stream.end(error.status, error.message)
            return
        except Exception:
            log.exception("rpc_failed", method=request.path)
            stream.end(Status.UNKNOWN, "the handler failed")
            return
        if request.timeout_s is not None:
            call.deadline_s = self._loop.time() + request.timeout_s
            self._expire_at(call.deadline_s)
        if event.end_stream:
            call.receive(b"", True)

    def _open_call(self, stream: Stream, request: headers.RequestHeaders) -> Call:
        if (method := self._methods.get(request.path)) is None:
            raise RpcError(Status.UNIMPLEMENTED, "unknown method")
        if isinstance(method, Unary):
            return UnaryCall(stream, method, request.metadata, self._message_bytes_max)
        return StreamingCall(stream, method, request.metadata, self._message_bytes_max)

    def _on_data(self, event: ngh2.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if event.end_stream:
            stream.requested = True
        if stream.call is None:
            stream.acknowledge(len(event.data))
        else:
            stream.call.receive(event.data, event.end_stream)

    def _on_trailers(self, event: ngh2.TrailersReceived) -> None:
        """A request with trailers has no END_STREAM in its DATA."""
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.requested = True
            if stream.call is not None:
                stream.call.receive(b"", True)

    def _on_reset(self, event: ngh2.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None and stream.call is not None:
            stream.call.cancel()

    def _on_closed(self, event: ngh2.StreamClosed) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is None:
            return
        self._half_open.discard(stream.id)
        self.congested.discard(stream)
        stream.close()

    def _on_ping_acknowledged(self, event: ngh2.PingAcknowledged) -> None:
        if event.opaque_data == _DRAINING and self._draining:
            # The peer has read the notice, so it has opened every call that it will open.
            self._refuse()

    # Deadlines

    def _expire_at(self, deadline_s: float) -> None:
        if self._expiry is None or deadline_s < self._expiry.when():
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._loop.call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        """Ends the calls whose deadline has passed."""
        now_s = self._loop.time()
        later: list[float] = []
        for stream in list(self._streams.values()):
            if stream.call is None or stream.call.deadline_s is None:
                continue
            if stream.call.deadline_s > now_s:
                later.append(stream.call.deadline_s)
            else:
                stream.call.fail(Status.DEADLINE_EXCEEDED, "the deadline has passed")
        next_s = max(min(later), now_s + DEADLINE_RESOLUTION_S) if later else None
        self._expiry = None if next_s is None else self._loop.call_at(next_s, self._expire)

    # Output

    def _flush(self) -> None:
        self._flushing_soon = False
        if self._transport is None:
            return
        try:
            self._write()
            while self._half_open and not self._writing_paused and self._reset_half_open():
                self._write()
        except ngh2.NGH2Error as error:
            self._break(error)
            return
        # nghttp2 reports the streams that these writes have closed.
        self._handle_events()
        if self.congested:
            self._resume_calls()
        idle = self._refusing and not self._streams
        broken = not self._http2.want_read and not self._http2.want_write
        if (idle or broken) and not self._writing_paused and self._transport is not None:
            self._transport.close()

    def _resume_calls(self) -> None:
        for stream in [stream for stream in self.congested if not stream.congested]:
            self.congested.discard(stream)
            if stream.call is not None:
                stream.call.resume()

    def _write(self) -> None:
        while not self._writing_paused and self._transport is not None:
            data = self._http2.data_to_send(_WRITE_BYTES)
            if not data:
                return
            self._transport.write(data)

    def _reset_half_open(self) -> bool:
        """Resets the streams whose response is sent and whose request has not ended. True when there are any.

        RFC 9113, section 8.1: NO_ERROR requests that the client sends no more of the request.
        """
        sent = [stream_id for stream_id in self._half_open if not self._http2.queued_body_size(stream_id)]
        for stream_id in sent:
            self._half_open.discard(stream_id)
            self._http2.reset_stream(stream_id, ngh2.ErrorCode.NO_ERROR)
        return bool(sent)

    # The end of the connection

    def _refuse(self) -> None:
        """Refuses streams from now on, with a GOAWAY that has the last one that is served."""
        if not self._refusing:
            self._refusing = True
            self._send_control(self._http2.send_goaway)

    def _send_control(self, send: Callable[[], None]) -> None:
        try:
            send()
        except ngh2.NGH2Error as error:
            self._break(error)

    def _break(self, error: ngh2.NGH2Error) -> None:
        """Ends a connection whose peer breaks the protocol, with the GOAWAY that nghttp2 may have queued."""
        log.warning("connection_broken", reason=str(error) or type(error).__name__)
        self._cancel_calls()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        try:
            transport.write(self._http2.data_to_send())
        except ngh2.NGH2Error:
            log.debug("goaway_not_sent")
        transport.close()

    def _cancel_calls(self) -> None:
        streams, self._streams = self._streams, {}
        self._half_open.clear()
        self.congested.clear()
        for stream in streams.values():
            stream.close()

    def _check_peer(self) -> None:
        """Disconnects a peer that has sent nothing, not even the answer to a PING."""
        if self._transport is None:
            return
        if not self._active and self._probing:
            self._transport.abort()
            return
        self._probing = not self._active
        if self._probing:
            self._send_control(self._http2.ping)
            self._flush()
        self._active = False
        self._keepalive = self._loop.call_later(self._keepalive_s, self._check_peer)

"""The gRPC edge of Envoy's access log: one stream per worker thread of Envoy, for as long as both live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Network, IPv6Network

import structlog
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from gateway.ledger.outbox import Outbox
from gateway.record.entry import Entry
from meter.access_log import records
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.records import DownstreamClosed, StreamReset

log = structlog.get_logger()


class AccessLogServicer(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """envoy.service.accesslog.v3.AccessLogService."""

    def __init__(
        self, disconnect_causes: DisconnectCauses, outbox: Outbox, trusted: Sequence[IPv4Network | IPv6Network]
    ) -> None:
        self._disconnect_causes = disconnect_causes
        self._outbox = outbox
        self._trusted = trusted
        self._streams: set[asyncio.Task[object]] = set()

    async def StreamAccessLogs(  # noqa: N802
        self, messages: AsyncIterator[als_pb2.StreamAccessLogsMessage], _: object
    ) -> als_pb2.StreamAccessLogsResponse:
        """Takes records until Envoy or `close` ends the stream."""
        stream = asyncio.current_task()
        if stream is None:
            raise RuntimeError("a handler runs in a task")
        self._streams.add(stream)
        try:
            async for message in messages:
                for record in message.http_logs.log_entry:
                    self._take(records.read(record, self._trusted))
        finally:
            self._streams.discard(stream)
        return als_pb2.StreamAccessLogsResponse()

    def close(self) -> None:
        """Ends the streams, which Envoy would keep open for as long as the server waits for them."""
        for stream in self._streams:
            stream.cancel()

    def _take(self, said: DownstreamClosed | StreamReset | Entry | None) -> None:
        if isinstance(said, DownstreamClosed):
            self._disconnect_causes.settle_orphan(said.request_id)
        elif isinstance(said, StreamReset):
            self._disconnect_causes.note(said.request_id, said.by_upstream)
        elif said is not None:
            self._outbox.submit(said)

"""The gRPC edge of Envoy's access log: one stream per worker thread of Envoy, open as long as both processes run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Network, IPv6Network

import structlog
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from gateway.ledger.outbox import Outbox
from gateway.record.entry import Entry
from meter.access_log import records
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.orphans import Orphans
from meter.access_log.records import DownstreamClosed, StreamReset

log = structlog.get_logger()


class AccessLogServicer(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """envoy.service.accesslog.v3.AccessLogService."""

    def __init__(
        self,
        disconnect_causes: DisconnectCauses,
        orphans: Orphans,
        outbox: Outbox,
        trusted: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        self._disconnect_causes = disconnect_causes
        self._orphans = orphans
        self._outbox = outbox
        self._trusted = trusted
        self._streams: set[asyncio.Task[object]] = set()

    async def StreamAccessLogs(  # noqa: N802
        self, messages: AsyncIterator[als_pb2.StreamAccessLogsMessage], _: object
    ) -> als_pb2.StreamAccessLogsResponse:
        """Accepts records until Envoy or `close` ends the stream."""
        stream = asyncio.current_task()
        assert stream is not None  # noqa: S101 (every coroutine of a server runs in a task)
        self._streams.add(stream)
        try:
            async for message in messages:
                for record in message.http_logs.log_entry:
                    self._take(record)
        finally:
            self._streams.discard(stream)
        return als_pb2.StreamAccessLogsResponse()

    def close(self) -> None:
        """Ends the streams, which Envoy would hold open until the grace time of a stopping server is over."""
        for stream in self._streams:
            stream.cancel()

    def _take(self, record: accesslog_pb2.HTTPAccessLogEntry) -> None:
        try:
            termination = records.read(record, self._trusted)
        except ValueError as error:
            # The stream carries the records of a whole Envoy thread, which must not be lost with this one.
            log.error("access_log_record_skipped", request_id=record.request.request_id, reason=str(error))
            return
        match termination:
            case DownstreamClosed(request_id):
                # Its answer may have begun at a meter, which then waits for the cause too.
                if not self._disconnect_causes.note(request_id, by_upstream=False):
                    self._orphans.add(request_id)
            case StreamReset(request_id, by_upstream):
                self._disconnect_causes.note(request_id, by_upstream)
            case Entry():
                self._outbox.submit(termination)

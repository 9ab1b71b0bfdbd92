"""The gRPC edge of Envoy's access log: one stream per worker thread of Envoy, open as long as both processes run."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

import structlog
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from gateway.ledger.outbox import Outbox
from gateway.record.entry import Entry
from gateway.rpc.methods import Method, Streaming
from meter.access_log import records
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.orphans import Orphans
from meter.access_log.records import DownstreamClosed, StreamReset

log = structlog.get_logger()


class AccessLog:
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

    def methods(self) -> tuple[Method, ...]:
        """The methods of the service. Envoy would hold its streams open until the grace time of a server is over."""
        path = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
        return (Streaming(path, als_pb2.StreamAccessLogsMessage, lambda _: _AccessLogs(self), endless=True),)

    def take(self, record: accesslog_pb2.HTTPAccessLogEntry) -> None:
        """Uses one record. A malformed one is skipped, with a log line."""
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


class _AccessLogs:
    """Accepts the records of one stream."""

    def __init__(self, service: AccessLog) -> None:
        self._service = service

    def receive(self, message: als_pb2.StreamAccessLogsMessage) -> None:
        for record in message.http_logs.log_entry:
            self._service.take(record)

    def finish(self) -> als_pb2.StreamAccessLogsResponse:
        return als_pb2.StreamAccessLogsResponse()

    def close(self, cause: Exception | None) -> None:
        """Nothing outlives a message."""

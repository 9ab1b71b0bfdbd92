"""A collector of OTLP over HTTP on loopback, which keeps what it receives."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.http_servers import servers

Attributes = dict[str, object]
BODY_BYTES_MAX = 1 << 26


@dataclass(frozen=True)
class CollectedSpan:
    """A span with the attributes of its resource."""

    span: Span
    resource: Attributes

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def attributes(self) -> Attributes:
        return attributes_of(self.span.attributes)


@dataclass
class Collector:
    """What has arrived. `headers` are those of the last request."""

    url: str = ""
    spans: list[CollectedSpan] = field(default_factory=list)
    metrics: dict[str, list[HistogramDataPoint]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    def trace(self, trace_id: str) -> list[CollectedSpan]:
        """The spans of a trace, the earliest first."""
        found = [each for each in self.spans if each.span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda each: each.span.start_time_unix_nano)

    async def _body(self, request: web.Request) -> bytes:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bodies.append(body)
        return body

    async def receive_traces(self, request: web.Request) -> web.Response:
        for each in ExportTraceServiceRequest.FromString(await self._body(request)).resource_spans:
            resource = attributes_of(each.resource.attributes)
            self.spans += [CollectedSpan(span, resource) for scope in each.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    async def receive_metrics(self, request: web.Request) -> web.Response:
        for each in ExportMetricsServiceRequest.FromString(await self._body(request)).resource_metrics:
            for metric in (metric for scope in each.scope_metrics for metric in scope.metrics):
                self.metrics[metric.name] = list(metric.histogram.data_points)
        return web.Response(content_type="application/x-protobuf")


def attributes_of(pairs: Sequence[KeyValue]) -> Attributes:
    """The attributes by name."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


@contextmanager
def collector() -> Iterator[Collector]:
    """Serves a collector until the context ends."""
    with servers() as own:
        collected = Collector()
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.add_routes(
            [web.post("/v1/traces", collected.receive_traces), web.post("/v1/metrics", collected.receive_metrics)]
        )
        collected.url = own.serve(application)
        yield collected

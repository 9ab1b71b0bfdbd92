"""A collector of OTLP over HTTP on loopback, in protobuf and in JSON, which retains what it receives.

Both encodings are parsed into the messages of xds-protos. They are of OTLP 0.10, whose protobuf fields have the same
numbers as today and whose scopes had another name.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.http_servers import servers

M = TypeVar("M", bound=Message)
Attributes = dict[str, object]
_RENAMED = {
    "scopeSpans": "instrumentationLibrarySpans",
    "scopeMetrics": "instrumentationLibraryMetrics",
    "scope": "instrumentationLibrary",
}
_ID_BYTES = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
BODY_BYTES_MAX = 1 << 26


@dataclass(frozen=True)
class CollectedSpan:
    """A span with the attributes of its resource."""

    span: Span
    resource: Attributes

    @property
    def id(self) -> str:
        return bytes(self.span.span_id).hex()

    @property
    def parent_id(self) -> str:
        return bytes(self.span.parent_span_id).hex()

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

    async def _read(self, request: web.Request, message: M) -> M:
        """Parses the body into `message`. Raises an exception for a field that OTLP does not have."""
        body = await self._body(request)
        if request.content_type == "application/json":
            return ParseDict(json.loads(body, object_hook=_as_protobuf_json), message)
        message.ParseFromString(body)
        return message

    async def _body(self, request: web.Request) -> bytes:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bodies.append(body)
        return body

    async def receive_traces(self, request: web.Request) -> web.Response:
        for each in (await self._read(request, ExportTraceServiceRequest())).resource_spans:
            resource = attributes_of(each.resource.attributes)
            scopes = each.instrumentation_library_spans
            self.spans += [CollectedSpan(span, resource) for scope in scopes for span in scope.spans]
        return self._answer(request)

    def _answer(self, request: web.Request) -> web.Response:
        """An empty response message in the encoding of the request."""
        return web.Response(
            body=b"{}" if request.content_type == "application/json" else b"", content_type=request.content_type
        )

    async def receive_metrics(self, request: web.Request) -> web.Response:
        for each in (await self._read(request, ExportMetricsServiceRequest())).resource_metrics:
            for metric in (metric for scope in each.instrumentation_library_metrics for metric in scope.metrics):
                self.metrics[metric.name] = list(metric.histogram.data_points)
        return self._answer(request)


def _as_protobuf_json(item: dict[str, Any]) -> dict[str, Any]:
    """An object of OTLP's JSON in protobuf's, which has ids in base64."""
    renamed = {_RENAMED.get(name, name): value for name, value in item.items()}
    for name, size in _ID_BYTES.items():
        if name in renamed:
            identifier = bytes.fromhex(renamed[name])
            assert len(identifier) == size
            renamed[name] = base64.b64encode(identifier).decode()
    return renamed


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

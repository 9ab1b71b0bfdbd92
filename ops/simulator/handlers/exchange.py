"""One request and its response, which is written frame by frame and may suffer a transport fault."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiohttp import web

from ops.simulator.control.behaviour import Behaviour, Fault, FaultKind
from ops.simulator.control.recorder import Record
from ops.simulator.dialects import gojson
from ops.simulator.dialects.media_types import JSON_UTF8
from ops.simulator.models.library import Library
from ops.simulator.scheduling.scheduler import Scheduler

# Go's server knows the length of a body that its buffer holds, and sends a longer one in chunks. Source:
# bufferBeforeChunkingSize in net/http.
_LENGTH_KNOWN_BYTES_MAX = 2048
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultInjected(Exception):
    """An injected fault ended the response; nothing more can be sent."""


@dataclass
class Exchange:
    """One request and the state of its server, with `send` and `stream` for the response.

    `path_parameter` is the last segment of the path, which routes such as `/v1/models/:model` read. `faults` are
    those injected into this request.
    """

    request: web.Request
    record: Record
    body: bytes
    path_parameter: str
    faults: Mapping[FaultKind, Fault]
    behaviour: Behaviour
    library: Library
    scheduler: Scheduler
    response: web.StreamResponse | None = field(default=None, init=False)

    async def send(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Sends a whole response, with its length unless it is long. Raises FaultInjected, ConnectionError."""
        response = web.StreamResponse(status=status, headers=self._head(content_type, headers))
        if len(body) > _LENGTH_KNOWN_BYTES_MAX:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await self._open(response)
        fault = self._transport_fault()
        if fault is not None and fault.after_frames:
            await response.write(body[: len(body) // 2])
            await self._inject(fault)
        if body and self.request.method != "HEAD":
            await response.write(body)
        self.record.frames += 1
        await self.end()

    async def send_json(self, document: Any) -> None:
        """Sends a native JSON response with status 200. Raises FaultInjected, ConnectionError."""
        await self.send(200, JSON_UTF8, gojson.dump(document))

    async def stream(self, status: int, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Sends the head of a chunked response. Raises FaultInjected, ConnectionError."""
        response = web.StreamResponse(status=status, headers=self._head(content_type, headers))
        response.enable_chunked_encoding()
        await self._open(response)

    async def frame(self, data: bytes) -> None:
        """Sends one frame of a chunked response, in one flush. Raises FaultInjected, ConnectionError."""
        if self.response is None:
            raise RuntimeError("a frame before the head")
        await self.response.write(data)
        self.record.frames += 1
        await self._inject_after(self.record.frames)

    async def end(self) -> None:
        """Ends the response regularly. Raises ConnectionError."""
        if self.response is not None:
            await self.response.write_eof()

    def _transport_fault(self) -> Fault | None:
        return next((self.faults[kind] for kind in ("reset", "close", "stall") if kind in self.faults), None)

    def _head(self, content_type: str, headers: Mapping[str, str] | None) -> dict[str, str]:
        content_type_header = {"Content-Type": content_type} if content_type else {}
        return {**self.behaviour.headers, **(headers or {}), **content_type_header}

    async def _open(self, response: web.StreamResponse) -> None:
        await self._inject_after(None)
        self.response = response
        await response.prepare(self.request)
        self.record.status = response.status
        await self._inject_after(0)

    async def _inject_after(self, frames: int | None) -> None:
        """Injects the transport fault if it is due after this number of frames (None: before the head)."""
        fault = self._transport_fault()
        if fault is not None and fault.after_frames == frames:
            await self._inject(fault)

    async def _inject(self, fault: Fault) -> NoReturn:
        if fault.kind == "stall":
            await asyncio.sleep(self.behaviour.stall_s)
        transport = self.request.transport
        if transport is not None and fault.kind == "reset":
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        elif transport is not None:
            transport.close()
        raise FaultInjected(fault.kind)

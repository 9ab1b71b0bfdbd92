"""One established connection: commands go out in order, and replies come back in the same order.

uvloop writes all commands of one step of the event loop together. The replies are parsed by hiredis. RESP:
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import hiredis
from pydantic import SecretStr

from gateway.stores.pipeline.call import Call, ReplyError

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""

_INCOMPLETE: Final = object()
# The kernel probes an idle connection after 30 s and gives it up after three probes without a reply.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


@dataclass(frozen=True, slots=True)
class Login:
    """What a new connection needs besides the address. Without `tls` it is not encrypted."""

    username: str | None = None
    password: SecretStr | None = None
    db: int = 0
    tls: ssl.SSLContext | None = None

    def commands(self) -> list[bytes]:
        """The commands that precede all others on a connection."""
        commands: list[tuple[str | int, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *filter(None, (self.username,)), self.password.get_secret_value()))
        if self.db:
            commands.append(("SELECT", self.db))
        return [pack(each) for each in commands]


def pack(words: tuple[str | int | bytes, ...]) -> bytes:
    """A command in RESP."""
    try:
        # Its stub allows a single word only, and has no return type.
        return hiredis.pack_command(words)  # type: ignore[arg-type, no-any-return]
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8 encoding, and a text from a caller must not make the call fail.
        return pack(tuple(each.encode("utf-8", "replace") if isinstance(each, str) else each for each in words))


_ASKING: Final = pack(("ASKING",))


class Connection(asyncio.Protocol):
    """A connection to one server. `on_lost` is called once, when it is closed by the peer or by `abort`."""

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._unwritten: list[bytes] = []
        self._paused = False
        self.is_lost = False
        self.outstanding: deque[Call] = deque()
        # The time since which replies are due and nothing has arrived.
        self.silent_since_s = self._loop.time()

    def send(self, call: Call) -> None:
        """Writes a call's command, or retains it while the server reads too slowly."""
        if not self.outstanding:
            self.silent_since_s = self._loop.time()
        if call.asks:
            # Its reply is ignored, and it is not sent again.
            ignored: asyncio.Future[Any] = self._loop.create_future()
            ignored.cancel()
            self._write(Call(_ASKING, ignored, 0.0, repeats_left=0))
        self._write(call)

    def abort(self) -> None:
        """Closes the connection at once. The outstanding calls stay in `outstanding`."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport  # type: ignore[assignment]  # Stream protocols get a Transport.
        connected: socket.socket | None = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                connected.setsockopt(socket.IPPROTO_TCP, option, value)

    def connection_lost(self, _exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.is_lost = True
        self._on_lost(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        unwritten, self._unwritten = self._unwritten, []
        if unwritten and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unwritten))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.silent_since_s = self._loop.time()
        outstanding = self.outstanding
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                call = outstanding.popleft()
                if type(reply) is ReplyError and reply.is_from_replica and call.repeats_left:
                    # Its successors may succeed elsewhere too, so all of them are left to the owner.
                    outstanding.appendleft(call)
                    self.abort()
                    return
                if not call.future.done():
                    _end(call.future, reply)
        except (hiredis.ProtocolError, IndexError):
            # The peer does not speak RESP, or replied to nothing. No later reply could be attributed.
            self.abort()

    def _write(self, call: Call) -> None:
        self.outstanding.append(call)
        if self._paused:
            self._unwritten.append(call.command)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.write(call.command)


def _end(future: asyncio.Future[Any], reply: object) -> None:
    if isinstance(reply, ReplyError):
        future.set_exception(reply)
    else:
        future.set_result(reply)


async def connect(address: Address, login: Login, on_lost: Callable[[Connection], None]) -> Connection:
    """Opens a connection and logs in. Raises OSError, or ReplyError when the server rejects the login."""
    loop = asyncio.get_running_loop()
    connection = Connection(on_lost)
    if isinstance(address, str):
        await loop.create_unix_connection(lambda: connection, address)
    else:
        await loop.create_connection(lambda: connection, *address, ssl=login.tls)
    try:
        # No time limit here, because the caller has one. A broken connection leaves these calls to it as well.
        calls = [Call(command, loop.create_future(), loop.time(), repeats_left=0) for command in login.commands()]
        for call in calls:
            connection.send(call)
        await asyncio.gather(*(call.future for call in calls))
    except BaseException:
        connection.abort()
        raise
    return connection

"""What both transports do with calls of grpc.aio's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from gateway.rpc.server import RpcServer
from tests.gateway.rpc.echo import MESSAGE_BYTES_MAX, TRANSPORTS, Client, Echo, served
from tests.polling import eventually_async

Code = grpc.StatusCode

# The limit of nghttp2 for rapid resets, unless it is configured, is 1,000 streams and 33 more a second.
CANCELLED_STREAMS = 1500


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=TRANSPORTS)
async def running(
    request: pytest.FixtureRequest, echo: Echo, tmp_path: Path
) -> AsyncIterator[tuple[RpcServer, Client]]:
    async with served(request.param, echo, tmp_path) as both:
        yield both
    assert echo.open == 0


@pytest.fixture
def client(running: tuple[RpcServer, Client]) -> Client:
    return running[1]


async def failure(call: grpc.aio.Call) -> tuple[grpc.StatusCode, str]:
    code, details = await call.code(), await call.details()
    assert isinstance(code, Code)
    return code, details


@pytest.mark.parametrize("name", ["Echo", "Later"])
@pytest.mark.parametrize("size", [0, 1, 100_000, MESSAGE_BYTES_MAX - 10])
async def test_a_unary_call_is_answered(client: Client, name: str, size: int) -> None:
    assert len((await client.unary(name, bytes(size))).value) == size


@pytest.mark.parametrize("metadata", [[], [("traceparent", "00-1-2-01"), ("other", "x")]], ids=["without", "with"])
async def test_a_traced_method_receives_the_trace_of_its_call(client: Client, metadata: list[tuple[str, str]]) -> None:
    expected = dict(metadata).get("traceparent", "").encode()
    assert (await client.unary("Trace", metadata=metadata)).value == expected


async def test_the_status_and_the_message_of_an_error_reach_the_caller(client: Client) -> None:
    assert await failure(client.unary("Fail")) == (Code.RESOURCE_EXHAUSTED, "50 % of a naïve\nlimit")


async def test_a_defect_of_a_handler_fails_its_call_only(client: Client) -> None:
    assert await client.unary("Crash").code() is Code.UNKNOWN
    assert (await client.unary("Echo", b"a")).value == b"a"


async def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    assert await client.unary("Nothing").code() is Code.UNIMPLEMENTED
    assert await client.stream("Nothing").code() is Code.UNIMPLEMENTED


async def test_a_message_that_is_too_large_is_refused(client: Client) -> None:
    assert await client.unary("Echo", bytes(MESSAGE_BYTES_MAX)).code() is Code.RESOURCE_EXHAUSTED
    stream = client.stream("Chat")
    await stream.write(BytesValue(value=bytes(MESSAGE_BYTES_MAX)))
    assert await stream.code() is Code.RESOURCE_EXHAUSTED
    assert (await client.unary("Echo", b"a")).value == b"a"


async def test_the_deadline_cancels_the_handler(client: Client, echo: Echo) -> None:
    assert await client.unary("Hang", timeout=0.2).code() is Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(echo.cancelled.wait(), 20)


async def test_a_caller_that_cancels_cancels_the_handler(client: Client, echo: Echo) -> None:
    call = client.unary("Hang")
    await client.unary("Echo")
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.wait_for(echo.cancelled.wait(), 20)


@pytest.mark.parametrize("name", ["Chat", "Await"])
async def test_a_streaming_call_is_answered_message_by_message_and_once_at_its_end(
    client: Client, echo: Echo, name: str
) -> None:
    stream = client.stream(name)
    for number in range(100):
        await stream.write(BytesValue(value=b"%d" % number))
        assert (await stream.read()).value == b"%d" % number
    await stream.done_writing()
    assert (await stream.read()).value == b"bye"
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is Code.OK
    await eventually_async(lambda: echo.causes == [None])


async def test_messages_that_come_together_are_answered_in_order(client: Client) -> None:
    stream = client.stream("Await")
    for number in range(50):
        await stream.write(BytesValue(value=b"%d" % number))
    await stream.done_writing()
    replies = [reply.value async for reply in stream]
    assert replies == [*(b"%d" % number for number in range(50)), b"bye"]


@pytest.mark.parametrize("size", [1, 1000, 60_000])
async def test_a_session_receives_the_headers_of_its_call(client: Client, echo: Echo, size: int) -> None:
    call = client.stream("Noted", metadata=[("x-nz-test", "{" * size)])
    await call.done_writing()
    await call.read()
    assert echo.metadata[b"x-nz-test"] == b"{" * size


async def test_a_message_may_have_no_reply(client: Client) -> None:
    stream = client.stream("Chat")
    for value in (b"quiet", b"quiet", b"loud"):
        await stream.write(BytesValue(value=value))
    assert (await stream.read()).value == b"loud"
    stream.cancel()


@pytest.mark.parametrize(("value", "code", "cause"), [(b"fail", Code.NOT_FOUND, "gone"), (b"crash", Code.UNKNOWN, "")])
async def test_an_exception_of_a_session_ends_the_call_and_is_its_cause(
    client: Client, echo: Echo, value: bytes, code: grpc.StatusCode, cause: str
) -> None:
    stream = client.stream("Chat")
    await stream.write(BytesValue(value=b"before"))
    await stream.write(BytesValue(value=value))
    assert (await stream.read()).value == b"before"
    assert await stream.code() is code
    await eventually_async(lambda: len(echo.causes) == 1)
    assert cause in str(echo.causes[0])
    assert echo.causes[0] is not None


@pytest.mark.parametrize("name", ["Chat", "Await"])
async def test_a_stream_that_the_caller_cancels_closes_its_session(client: Client, echo: Echo, name: str) -> None:
    stream = client.stream(name)
    await stream.write(BytesValue(value=b"a"))
    await stream.read()
    if name == "Await":
        await stream.write(BytesValue(value=b"gate"))
    stream.cancel()
    await eventually_async(lambda: echo.causes == [None])


async def test_the_deadline_of_a_stream_closes_its_session(client: Client, echo: Echo) -> None:
    stream = client.stream("Chat", timeout=0.5)
    await stream.write(BytesValue(value=b"quiet"))
    assert await stream.code() is Code.DEADLINE_EXCEEDED
    await eventually_async(lambda: echo.open == 0)


async def test_many_cancelled_streams_leave_the_connection_usable(client: Client, echo: Echo) -> None:
    for _ in range(CANCELLED_STREAMS):
        stream = client.stream("Chat")
        await stream.write(BytesValue(value=b"a"))
        await stream.read()
        stream.cancel()
    await eventually_async(lambda: echo.open == 0)
    assert echo.opened == CANCELLED_STREAMS
    assert (await client.unary("Echo", b"a")).value == b"a"


async def test_a_caller_that_does_not_read_is_not_answered_without_bound(client: Client, echo: Echo) -> None:
    stream = client.stream("Big")
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < 1000:
            await stream.write(BytesValue(value=bytes(4000)))
            sent += 1

    sending = asyncio.create_task(send())
    for _ in range(20):
        await asyncio.sleep(0.05)
    handled = echo.received
    assert handled < 500
    assert (await client.unary("Echo", b"a")).value == b"a"
    for _ in range(1000):
        assert len((await stream.read()).value) == 64 << 10
    await sending
    assert echo.received == 1000
    stream.cancel()


async def test_a_server_that_stops_lets_its_calls_finish_and_ends_endless_ones(
    running: tuple[RpcServer, Client], echo: Echo
) -> None:
    server, client = running
    hanging, stream, endless = client.unary("Hang"), client.stream("Chat"), client.stream("Endless")
    for each in (stream, endless):
        await each.write(BytesValue(value=b"a"))
        await each.read()
    await eventually_async(lambda: echo.opened == 2)
    stopping = asyncio.create_task(server.stop(20))
    assert await endless.code() is not Code.OK
    await stream.write(BytesValue(value=b"late"))
    assert (await stream.read()).value == b"late"
    assert not stopping.done()
    echo.gate.set()
    assert (await hanging) == BytesValue()
    await stream.done_writing()
    assert (await stream.read()).value == b"bye"
    assert await stream.read() is grpc.aio.EOF
    await stopping
    assert echo.open == 0


async def test_calls_that_outlive_the_grace_time_are_cancelled(running: tuple[RpcServer, Client], echo: Echo) -> None:
    server, client = running
    hanging, stream = client.unary("Hang"), client.stream("Chat")
    await stream.write(BytesValue(value=b"a"))
    await stream.read()
    await server.stop(0.1)
    assert echo.open == 0
    assert echo.cancelled.is_set()
    assert await hanging.code() is not Code.OK
    assert await stream.code() is not Code.OK

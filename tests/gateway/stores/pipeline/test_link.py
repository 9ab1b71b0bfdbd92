"""The calls to one server, whatever becomes of their callers, their connection and the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.stores.pipeline import link as link_module
from gateway.stores.pipeline.call import ReplyError
from gateway.stores.pipeline.connection import Login, pack
from gateway.stores.pipeline.link import Link
from tests.gateway.quota.proxy import Answers, relay
from tests.redis_server import RedisServer, one_server

# The deadline of calls that must not miss it, and of calls that must.
LONG_S, SHORT_S = 20.0, 0.2
CALLS = 200
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def link_to(*ports: int, timeout_s: float = LONG_S) -> AsyncIterator[Link]:
    """A link that connects to each of the ports in turn, and to the last one from then on."""
    left = list(ports)

    async def resolve() -> tuple[str, int]:
        return "127.0.0.1", left.pop(0) if len(left) > 1 else left[0]

    link = Link(resolve, Login(), timeout_s)
    try:
        yield link
    finally:
        await link.aclose()


def call(link: Link, *words: str | int, within_s: float = LONG_S) -> asyncio.Future[object]:
    return link.call(pack(words), asyncio.get_running_loop().time() + within_s)


@asynccontextmanager
async def peer(serve: Serve) -> AsyncIterator[int]:
    """A peer that is no Redis. Yields its port."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.fixture
def port(redis_url: str) -> int:
    return int(redis_url.rpartition(":")[2].partition("/")[0])


async def test_each_call_gets_its_own_reply(port: int) -> None:
    async with link_to(port) as link:
        replies = await asyncio.gather(*(call(link, "ECHO", number) for number in range(CALLS)))
        assert replies == [b"%d" % number for number in range(CALLS)]


async def test_an_error_ends_its_own_call_only(port: int) -> None:
    async with link_to(port) as link:
        error, reply = await asyncio.gather(call(link, "NOTHING"), call(link, "ECHO", "x"), return_exceptions=True)
        assert isinstance(error, ReplyError)
        assert error.code == "ERR"
        assert reply == b"x"


async def test_the_reply_to_a_cancelled_call_reaches_no_other_call(port: int) -> None:
    async with link_to(port) as link:
        for steps in range(20):
            calls = [call(link, "ECHO", number) for number in range(CALLS)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for cancelled in calls[::3]:
                cancelled.cancel()
            for number, each in enumerate(calls):
                if number % 3:
                    assert await each == b"%d" % number


async def test_a_text_without_an_encoding_is_sent_with_a_replacement(port: int) -> None:
    async with link_to(port) as link:
        assert await call(link, "ECHO", "a\ud800\0") == b"a?\0"


async def test_calls_whose_connection_breaks_are_sent_again_once(port: int) -> None:
    async with relay(port) as (through, url), link_to(int(url.rpartition(":")[2].partition("/")[0])) as link:
        assert await call(link, "ECHO", "x") == b"x"
        through.answers = Answers.BREAK_ONCE
        assert await asyncio.gather(*(call(link, "ECHO", number) for number in range(3))) == [b"0", b"1", b"2"]
        assert through.lost == 1


async def test_calls_to_a_peer_that_breaks_every_connection_fail() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with peer(serve) as port, link_to(port) as link:
        with pytest.raises(ConnectionError):
            await call(link, "ECHO", "x")


async def test_calls_without_a_server_fail_at_once_and_succeed_after_its_start() -> None:
    with one_server() as server:
        async with link_to(server.port) as link:
            assert await call(link, "ECHO", "x") == b"x"
            server.kill()
            for _ in range(3):
                with pytest.raises(OSError):
                    await call(link, "ECHO", "x")
            server.start()
            assert await call(link, "ECHO", "x") == b"x"


async def test_a_silent_server_is_given_up_after_the_deadline(port: int) -> None:
    async with relay(port) as (through, url):
        relayed = int(url.rpartition(":")[2].partition("/")[0])
        async with link_to(relayed, timeout_s=SHORT_S) as link:
            assert await call(link, "ECHO", "x") == b"x"
            through.answers = Answers.VANISH_ONCE
            with pytest.raises(TimeoutError):
                await call(link, "ECHO", "lost", within_s=SHORT_S)
            # On a new connection, because the next reply of the old one would belong to the lost call.
            assert await call(link, "ECHO", "y") == b"y"


async def test_every_call_to_a_hanging_server_fails_in_time_and_the_link_recovers(port: int) -> None:
    with one_server() as server:
        async with link_to(server.port, timeout_s=SHORT_S) as link:
            assert await call(link, "ECHO", "x") == b"x"
            with server.frozen():
                for _ in range(3):
                    calls = [call(link, "ECHO", number, within_s=SHORT_S) for number in range(CALLS)]
                    outcomes = await asyncio.gather(*calls, return_exceptions=True)
                    assert {type(outcome) for outcome in outcomes} == {TimeoutError}
            assert await _eventually(link, "ECHO", "y") == b"y"


async def _eventually(link: Link, *words: str) -> object:
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                return await call(link, *words)
            except OSError:
                await asyncio.sleep(0.01)


async def test_further_calls_fail_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CALLS_MAX", 3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with peer(serve) as port, link_to(port) as link:
        waiting = [call(link, "ECHO", number) for number in range(3)]
        with pytest.raises(ConnectionError, match="too many"):
            call(link, "ECHO", "x")
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in waiting)
        with pytest.raises(ConnectionError, match="too many"):
            call(link, "ECHO", "x")
        await link.aclose()
        assert [type(each.exception()) for each in waiting] == [ConnectionError] * 3


async def test_a_peer_that_does_not_speak_the_protocol_is_disconnected() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with peer(serve) as port, link_to(port) as link:
        with pytest.raises(ConnectionError):
            await call(link, "ECHO", "x")


async def test_a_peer_that_replies_to_nothing_is_disconnected() -> None:
    disconnected = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"+OK\r\n+OK\r\n")
        with suppress(ConnectionError):
            await reader.read()
        disconnected.set()
        writer.close()

    async with peer(serve) as port, link_to(port) as link, asyncio.timeout(LONG_S):
        assert await call(link, "ECHO", "x") == b"OK"
        await disconnected.wait()


@pytest.mark.parametrize("words", [("SET", "a", "1"), ("EVAL", "return redis.call('SET', 'a', '1')", 0)])
async def test_a_call_to_a_server_that_has_become_a_replica_is_sent_to_the_new_master(words: tuple[str | int]) -> None:
    with one_server() as old, one_server() as new:
        async with link_to(old.port, new.port) as link:
            assert await call(link, "ECHO", "x") == b"x"
            old.client().replicaof("127.0.0.1", new.port)
            assert await call(link, *words) == b"OK"
            assert new.client().get("a") == b"1"


async def test_a_server_that_stays_a_replica_refuses_the_call() -> None:
    with one_server() as replica, one_server() as master:
        replica.client().replicaof("127.0.0.1", master.port)
        async with link_to(replica.port) as link:
            with pytest.raises(ReplyError) as refused:
                await call(link, "SET", "a", "1")
            assert refused.value.is_from_replica


async def test_a_large_backlog_is_written_while_the_server_reads_it() -> None:
    with one_server() as server:
        async with link_to(server.port) as link:
            text = "x" * 100_000
            assert await asyncio.gather(*(call(link, "ECHO", text) for _ in range(CALLS))) == [text.encode()] * CALLS


async def _killed_during_calls(server: RedisServer, link: Link) -> list[object]:
    calls = [call(link, "ECHO", number) for number in range(CALLS)]
    await asyncio.sleep(0)
    server.kill()
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_every_call_ends_when_the_server_is_killed() -> None:
    with one_server() as server:
        async with link_to(server.port) as link:
            assert await call(link, "ECHO", "x") == b"x"
            outcomes = await _killed_during_calls(server, link)
            assert len(outcomes) == CALLS
            for number, outcome in enumerate(outcomes):
                assert outcome == b"%d" % number or isinstance(outcome, OSError)


async def test_a_later_call_may_have_an_earlier_deadline() -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    silent = asyncio.Event()
    async with peer(serve) as port, link_to(port) as link:
        long = call(link, "ECHO", "long")
        with pytest.raises(TimeoutError):
            await call(link, "ECHO", "short", within_s=SHORT_S)
        assert not long.done()
        silent.set()
        with pytest.raises(ConnectionError):
            await long

"""The calls of a client of REDIS_URL: logins, TLS, unix sockets, and a cluster whose slots move."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.crc import key_slot

from gateway.errors import SettingsError, StoreUnavailable
from gateway.settings import Settings
from gateway.stores.library import Library
from gateway.stores.pipeline.call import ReplyError
from gateway.stores.pipeline.connection import pack
from gateway.stores.redis import Redis, connect
from gateway.stores.scripts import Scripts
from tests.certificates import self_signed
from tests.redis_server import RedisServer, cluster, one_server

TIMEOUT_S = 10.0
# One of the scripts of the quota, which replies with the time, and keys for it.
LIBRARY, SCRIPT = Library("gateway.quota.redis", ("shared", "calibration")), "expired"


@asynccontextmanager
async def client_of(url: str, shards: int = 1) -> AsyncIterator[Redis]:
    redis = connect(Settings(redis_url=SecretStr(url), redis_timeout_s=TIMEOUT_S, redis_shards=shards))
    try:
        yield redis
    finally:
        await redis.aclose()


async def run(redis: Redis) -> Any:
    keys = [f"nz:{{s0}}:{name}" for name in ("holds", "deadlines", "events", "epoch")]
    return await Scripts(redis, LIBRARY).run(SCRIPT, keys, 10)


async def test_a_user_with_a_password_and_a_database() -> None:
    with one_server() as server:
        admin = server.client()
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">pass/word", "~nz:*", "+@all")
        # The connection of `admin` stays logged in.
        admin.config_set("requirepass", "other")
        address = f"127.0.0.1:{server.port}"
        async with client_of(f"redis://gateway:pass%2Fword@{address}/3") as redis:
            assert await run(redis) == []
            assert "db=3" in _client_list(admin)
        async with client_of(f"redis://:other@{address}/0") as redis:
            assert await run(redis) == []
        for login in ("gateway:wrong@", ""):
            async with client_of(f"redis://{login}{address}/0") as redis:
                with pytest.raises(StoreUnavailable, match="rejected the login"):
                    await run(redis)


def _client_list(admin: Any) -> str:
    admin.set_response_callback("CLIENT LIST", lambda reply, **_: reply)
    return str(admin.execute_command("CLIENT LIST"))


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with one_server("--unixsocket", str(path)):
        async with client_of(f"unix://{path}") as redis:
            assert await run(redis) == []
    with pytest.raises(SettingsError):
        connect(Settings(redis_url=SecretStr(f"unix://{path}"), redis_shards=2))


async def test_tls_with_a_trusted_certificate(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    trusted, other = self_signed(tmp_path, "localhost"), self_signed(tmp_path / "other", "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(trusted.certificate, trusted.key)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer), return_exceptions=True)

    with one_server() as server:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        url = f"rediss://localhost:{listener.sockets[0].getsockname()[1]}/0?ssl_ca_certs="
        async with client_of(f"{url}{trusted.certificate}") as redis:
            assert await run(redis) == []
        async with client_of(f"{url}{other.certificate}") as redis:
            with pytest.raises(StoreUnavailable):
                await run(redis)
        listener.close()


async def test_calls_follow_a_slot_that_moves_to_another_node() -> None:
    with cluster() as servers:
        async with client_of(servers[0].url, shards=2) as redis:
            keys = [f"{{moves}}:{number}" for number in range(20)]
            source, target = _owner_and_other(servers, keys[0])
            for key in keys:
                assert await redis.calls.call(key, pack(("SET", key, "0"))) == b"OK"
            moved = asyncio.Event()
            counts = dict.fromkeys(keys, 0)

            async def increment(key: str) -> None:
                done = False
                while not done:
                    done = moved.is_set()
                    counts[key] += 1
                    assert await redis.calls.call(key, pack(("INCR", key))) == counts[key]

            tasks = [asyncio.create_task(increment(key)) for key in keys]
            await asyncio.to_thread(_move, source, target, key_slot(keys[0].encode()), keys)
            moved.set()
            await asyncio.gather(*tasks)
            assert int(target.client().get(keys[0])) == counts[keys[0]]


def _owner_and_other(servers: list[RedisServer], key: str) -> tuple[RedisServer, RedisServer]:
    owner = next(server for server in servers if key_slot(key.encode()) in _slots_of(server))
    return owner, next(server for server in servers if server is not owner)


def _slots_of(server: RedisServer) -> range:
    for first, last, (_, port, *_), *_ in _raw(server, "CLUSTER SLOTS"):
        if port == server.port:
            return range(first, last + 1)
    raise AssertionError("the node has no slots")


def _raw(server: RedisServer, *words: str | int) -> Any:
    client = server.client()
    client.set_response_callback(" ".join(map(str, words)), lambda reply, **_: reply)
    return client.execute_command(*words)


def _move(source: RedisServer, target: RedisServer, slot: int, keys: list[str]) -> None:
    source_id, target_id = (_raw(each, "CLUSTER MYID").decode() for each in (source, target))
    target.client().execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    for key in keys:
        source.client().execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for server in (target, source):
        server.client().execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


async def test_a_node_that_fails_ends_the_calls_to_its_slots_only() -> None:
    with cluster() as servers:
        async with client_of(servers[0].url, shards=2) as redis:
            keys = [f"key{number}" for number in range(30)]
            for key in keys:
                await redis.calls.call(key, pack(("SET", key, "0")))
            dead = _slots_of(servers[0])
            servers[0].kill()
            for key in keys:
                if key_slot(key.encode()) in dead:
                    with pytest.raises(OSError):
                        await redis.calls.call(key, pack(("GET", key)))
            servers[0].start()
            async with asyncio.timeout(60):
                for key in keys:
                    assert await _served(redis, key) in (b"0", None)


async def _served(redis: Redis, key: str) -> Any:
    while True:
        try:
            return await redis.calls.call(key, pack(("GET", key)))
        except (OSError, ReplyError):
            await asyncio.sleep(0.05)

"""How scripts are called: as functions, and by their digest where the server or the user's rights exclude functions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.queue.redis import queue
from gateway.quota.redis import keys
from gateway.quota.redis import quota as quotas
from gateway.settings import Settings
from gateway.stores.library import Library
from gateway.stores.pipeline.call import ReplyError
from gateway.stores.redis import Redis, connect
from gateway.stores.scripts import Scripts
from tests.gateway.quota.builders import Clock
from tests.redis_commands import counted_calls, script_calls
from tests.redis_server import one_server

LIBRARY = quotas.SCRIPTS
KEYS = keys.of_shard(0)


@dataclass
class Server:
    """A server that runs no script. It refuses each command in `refused` with that error."""

    refused: dict[str, str] = field(default_factory=dict)
    has_library: bool = False
    scripts: set[str] = field(default_factory=set)
    received: list[str] = field(default_factory=list)

    async def call(self, _key: str, command: bytes) -> Any:
        """See `Calls`."""
        reader = hiredis.Reader(encoding="utf-8")
        reader.feed(command)
        words = cast(list[str], reader.gets())
        self.received.append(words[0])
        await asyncio.sleep(0)
        if words[0] in self.refused:
            raise ReplyError(self.refused[words[0]])
        match words:
            case ["FUNCTION", "LOAD", _] if self.has_library:
                raise ReplyError("ERR Library 'neuronetz_1' already exists")
            case ["FUNCTION", "LOAD", text]:
                assert text == LIBRARY.text
                self.has_library = True
            case ["FCALL", *_] if not self.has_library:
                raise ReplyError("ERR Function not found")
            case ["EVALSHA", digest, *_] if digest not in self.scripts:
                raise ReplyError("NOSCRIPT No matching script. Please use EVAL.")
            case ["EVAL", text, *_]:
                assert text == LIBRARY.script("expired").text
                self.scripts.add(LIBRARY.script("expired").digest)
        return []


def scripts_at(server: Server) -> Scripts:
    return Scripts(cast(Redis, SimpleNamespace(calls=server)), LIBRARY)


async def run(scripts: Scripts) -> Any:
    return await scripts.run("expired", KEYS, 10)


async def test_calls_share_one_loading_and_call_functions_from_then_on() -> None:
    server = Server()
    scripts = scripts_at(server)
    await asyncio.gather(*(run(scripts) for _ in range(3)))
    await run(scripts)
    assert server.received == ["FUNCTION", *["FCALL"] * 4]


async def test_another_process_has_loaded_the_library() -> None:
    server = Server(has_library=True)
    await run(scripts_at(server))
    assert server.received == ["FUNCTION", "FCALL"]


async def test_a_server_that_lost_the_library_gets_it_again() -> None:
    server = Server()
    scripts = scripts_at(server)
    await run(scripts)
    server.has_library = False
    await asyncio.gather(*(run(scripts) for _ in range(2)))
    assert server.received[2:] == ["FCALL", "FCALL", "FUNCTION", "FCALL", "FCALL"]


@pytest.mark.parametrize(
    "refusal",
    ["ERR unknown command `FUNCTION`, with args beginning with: `LOAD`, ", "NOPERM this user has no permissions"],
)
async def test_a_server_that_refuses_functions_gets_scripts(refusal: str) -> None:
    server = Server(refused={"FUNCTION": refusal})
    scripts = scripts_at(server)
    await run(scripts)
    await run(scripts)
    assert server.received == ["FUNCTION", "EVALSHA", "EVAL", "EVALSHA"]


@pytest.mark.parametrize(
    "refusal", ["ERR unknown command 'FCALL', with args beginning with: ", "NOPERM no permissions"]
)
async def test_calls_of_functions_that_are_refused_later_become_calls_of_scripts(refusal: str) -> None:
    server = Server()
    scripts = scripts_at(server)
    await run(scripts)
    server.refused["FCALL"] = refusal
    await run(scripts)
    await run(scripts)
    assert server.received[2:] == ["FCALL", "EVALSHA", "EVAL", "EVALSHA"]


async def test_a_library_that_cannot_be_loaded_now_is_loaded_later() -> None:
    server = Server(refused={"FUNCTION": "OOM command not allowed when used memory > 'maxmemory'."})
    scripts = scripts_at(server)
    await run(scripts)
    server.refused.clear()
    await run(scripts)
    assert server.received == ["FUNCTION", "EVALSHA", "EVAL", "FUNCTION", "FCALL"]


async def test_a_call_whose_server_changes_again_ends_as_a_script() -> None:
    server = Server(has_library=True)
    scripts = scripts_at(server)
    await run(scripts)
    server.refused["FCALL"] = "ERR Function not found"
    await run(scripts)
    assert server.received[2:] == ["FCALL", "FUNCTION", "FCALL", "EVALSHA", "EVAL"]


@pytest.mark.parametrize("command", ["FCALL", "EVALSHA"])
async def test_an_error_of_the_script_itself_is_not_repeated(command: str) -> None:
    refused = {command: "ERR user_script:1: attempt to index a nil value"}
    server = Server(refused if command == "FCALL" else {"FUNCTION": "ERR unknown command", **refused})
    with pytest.raises(StoreUnavailable):
        await run(scripts_at(server))
    assert server.received == ["FUNCTION", command]


@pytest.mark.parametrize("library", [quotas.SCRIPTS, quotas.SCRIPTS_WITH_QUEUE, queue.SCRIPTS])
def test_the_scripts_without_memory_exist(library: Library) -> None:
    assert library.without_memory < set(library.scripts)


async def test_a_user_without_permission_for_functions() -> None:
    with one_server() as server:
        admin = server.client()
        has_functions = int(admin.info("server")["redis_version"].split(".")[0]) >= 7
        forbidden = ["-function", "-fcall"] if has_functions else []
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">secret", "~nz:*", "+@all", *forbidden)
        url = f"redis://gateway:secret@127.0.0.1:{server.port}/0"
        redis = connect(Settings(redis_url=SecretStr(url), redis_timeout_s=10.0))
        scripts = Scripts(redis, LIBRARY)
        with counted_calls(admin) as calls:
            assert await run(scripts) == []
            assert await run(scripts) == []
        assert script_calls(calls) == calls["evalsha"]
        await redis.aclose()


async def test_each_call_sees_its_own_arguments_and_time() -> None:
    with one_server() as server:
        redis = connect(Settings(redis_url=SecretStr(server.url), redis_timeout_s=10.0))
        clock = Clock(1_000_000)
        scripts = Scripts(redis, LIBRARY, clock)
        server.client().zadd(KEYS[1], {"a": 1_500_000})
        server.client().hset(KEYS[0], "a", "{}")
        replies = []
        for clock.now_ms, names in (
            (1_000_000, KEYS),
            (2_000_000, KEYS),
            (2_000_000, keys.of_shard(1)),
            (1_000_000, KEYS),
        ):
            replies.append(await scripts.run("expired", names, 10))
        assert replies == [[], [b"a", b"{}"], [], []]
        await redis.aclose()

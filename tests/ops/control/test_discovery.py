"""Discovery over simulated backends: its queries, its snapshots and its log events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from gateway.catalog.snapshot import Catalog
from gateway.catalog.store import CatalogStore
from gateway.service.lifecycle import cancel
from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.stores.redis import connect
from ops.backends.probe import ANSWER_BYTES_MAX, ProbeError
from ops.control.discovery import Discovery
from ops.control.prober import Prober
from ops.control.rediscovery import Rediscovery
from ops.simulator.access import Auth
from ops.simulator.app import RunningSimulator, SimulatorOptions, run_simulator
from tests.polling import eventually_async

MODELS = ("llama3.2:latest", "qwen3:8b")


class Site:
    """Simulated backends by name, and the discovery over them."""

    def __init__(self, redis_url: str) -> None:
        self.servers: dict[str, RunningSimulator] = {}
        self.backends: list[Backend] = []
        self.now = 1000.0
        self._redis_url = redis_url

    @asynccontextmanager
    async def discovering(self, **settings: Any) -> AsyncIterator[Discovery]:
        """A discovery over the backends as they are now; nothing is published yet."""
        chosen = Settings(
            ollama_backends=tuple(self.backends), redis_url=SecretStr(self._redis_url), redis_timeout_s=5, **settings
        )
        self.redis = self._redis = connect(chosen)
        await self._redis.flushall()
        self._store = CatalogStore(self._redis, 5)
        async with aiohttp.ClientSession() as session:
            prober = Prober(session, chosen.ollama_connect_timeout_s)
            yield Discovery(chosen, prober, self._store, monotonic=lambda: self.now)
        await self._redis.aclose()

    async def published(self) -> Catalog | None:
        snapshot = await self._store.fetch(unless_version="")
        return snapshot.catalog if snapshot else None

    async def soon_published(self) -> Catalog:
        return await eventually_async(self.published)

    async def lose(self) -> None:
        await self._redis.flushall()


@pytest.fixture
async def site(redis_url: str) -> AsyncIterator[Site]:
    """Two backends, of which the second demands a token."""
    site = Site(redis_url)
    async with AsyncExitStack() as stack:
        for name, auth in (("near", None), ("far", Auth(SecretStr("far-token"), "X-Api-Key"))):
            server = await stack.enter_async_context(run_simulator(SimulatorOptions(port=0, models=MODELS, auth=auth)))
            token = {"auth_token": "far-token", "auth_header": "X-Api-Key"} if auth else {}
            site.servers[name] = server
            site.backends.append(Backend.model_validate({"name": name, "base_url": server.url, **token}))
        yield site


def behave(server: RunningSimulator, **changes: Any) -> None:
    behaviour = server.simulator.behaviour
    behaviour.replace(changes, type(behaviour)())


async def test_every_backend_is_queried_with_its_own_token_and_the_answers_are_one_snapshot(site: Site) -> None:
    async with site.discovering() as discovery:
        assert await discovery.refresh()
        catalog = await site.published()
    assert catalog is not None
    assert [(s.name, s.version, s.answers) for s in catalog.backends] == [
        ("near", "0.33.0", True),
        ("far", "0.33.0", True),
    ]
    assert catalog.models["qwen3:8b"].backends == ("near", "far")
    assert catalog.models["llama3.2:latest"].shown["model_info"]["llama.context_length"] == 131_072
    assert "quiet otter" not in catalog.to_json()
    seen = {name: server.simulator.recorder.listing() for name, server in site.servers.items()}
    assert {record["headers"].get("x-api-key") for record in seen["far"]} == {"far-token"}
    assert not any({"x-api-key", "authorization"} & record["headers"].keys() for record in seen["near"])


async def test_a_model_is_described_once_for_each_digest(site: Site) -> None:
    async with site.discovering() as discovery:
        for _ in range(3):
            await discovery.refresh()
        site.servers["near"].simulator.library.add("gemma3:270m")
        await discovery.refresh()
        catalog = await site.published()
    assert catalog is not None
    assert catalog.models["gemma3:270m"].shown["model_info"]["gemma3.context_length"] == 32_768
    shown = [r["path"] for s in site.servers.values() for r in s.simulator.recorder.listing() if r["method"] == "POST"]
    assert shown == ["/api/show"] * 3


async def test_the_last_observation_of_a_failed_backend_expires_after_the_cache_ttl(site: Site) -> None:
    async with site.discovering(model_discovery_cache_ttl_s=120) as discovery:
        await discovery.refresh()
        site.now += 100
        behave(site.servers["near"], faults=[{"kind": "reset", "paths": ["/api/tags"]}])
        with capture_logs() as logs:
            assert not await discovery.refresh()
        assert [(entry["event"], entry["backend"]) for entry in logs] == [("backend_unavailable", "near")]
        catalog = await site.published()
        assert catalog is not None
        assert [(state.name, state.answers) for state in catalog.backends] == [("near", False), ("far", True)]
        assert catalog.models["qwen3:8b"].backends == ("near", "far")
        site.now += 21
        await discovery.refresh()
        catalog = await site.published()
        assert catalog is not None
        assert catalog.models["qwen3:8b"].backends == ("far",)
        behave(site.servers["far"], faults=[{"kind": "status", "paths": ["/api/ps"]}])
        site.now += 121
        await site.lose()
        await discovery.refresh()
        catalog = await site.published()
        assert catalog is not None
        assert [(state.name, state.answers) for state in catalog.backends] == [("near", False), ("far", False)]
        assert catalog.is_unreachable
        assert not discovery.current


async def test_a_slow_backend_does_not_delay_the_others(site: Site) -> None:
    behave(site.servers["near"], faults=[{"kind": "stall", "paths": ["/api/tags"]}], stall_s=3600)
    async with site.discovering() as discoverer:
        refreshing = asyncio.create_task(discoverer.refresh())
        assert [state.name for state in (await site.soon_published()).backends] == ["far"]
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)


async def test_a_finding_is_logged_once_and_again_when_it_changes(site: Site) -> None:
    near, far = site.servers["near"], site.servers["far"]
    near.simulator.library.replace_all([{"name": "qwen3:8b", "digest": "f" * 64}])
    async with site.discovering() as discovery:
        logged = []
        for version in ("0.17.0", "0.17.0", "0.16.0", "0.33.0", "0.33.0"):
            behave(far, version=version)
            with capture_logs() as logs:
                await discovery.refresh()
            logged.append([(entry["event"], entry["subject"]) for entry in logs])
    old = ("version_too_old", "far")
    assert sorted(logged[0]) == [("digests_differ", "qwen3:8b"), old]
    assert logged[1:] == [[], [old], [], []]


async def test_a_newly_pulled_model_is_there_at_the_next_refresh(site: Site) -> None:
    async with site.discovering() as discovery:
        await discovery.refresh()
        site.servers["far"].simulator.library.add("hf.co/Org/Name:Q4")
        await discovery.refresh()
        catalog = await site.published()
    assert catalog is not None
    assert catalog.models["hf.co/org/name:q4"].backends == ("far",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"x" * (ANSWER_BYTES_MAX + 1), "more than"),
        (b"[]", "no JSON object"),
        (b"<html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
    ids=["endless", "a list", "no JSON", "bottomless"],
)
async def test_the_error_for_an_invalid_answer_is_one_sentence(body: bytes, reason: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    backend = Backend(name="odd", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server, aiohttp.ClientSession() as session:
        with pytest.raises(ProbeError, match=reason):
            await Prober(session, 5).observe(backend)


async def test_the_second_replica_is_queried_when_the_first_is_unreachable(site: Site) -> None:
    near = site.backends[0]
    backend = near.model_copy(update={"base_url": "http://127.0.0.1:1", "replicas": (near.base_url,)})
    async with aiohttp.ClientSession() as session:
        assert len((await Prober(session, 5).observe(backend)).tags) == len(MODELS)


async def test_the_error_for_a_missing_certificate_file_is_one_sentence(site: Site, tmp_path: Path) -> None:
    backend = site.backends[0].model_copy(update={"ca_file": tmp_path / "nowhere"})
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ProbeError, match="cannot be read as PEM"):
            await Prober(session, 5).observe(backend)


async def test_one_backend_is_queried_alone(site: Site) -> None:
    async with site.discovering() as discovery:
        await discovery.refresh()
        for server in site.servers.values():
            server.simulator.library.replace_all(["llama3.2:latest"])
        await discovery.refresh_backend("near")
        catalog = await site.published()
        assert catalog is not None
        assert {name: model.backends for name, model in catalog.models.items()} == {
            "llama3.2:latest": ("near", "far"), "qwen3:8b": ("far",),
        }  # fmt: skip
        await discovery.refresh_backend("unknown")
        assert await site.published() == catalog


async def test_a_backend_that_reports_a_missing_model_is_queried_at_once_and_then_after_a_pause(site: Site) -> None:
    async with site.discovering() as discovery:
        await discovery.refresh()
        queried: list[tuple[str, float]] = []

        async def refresh_backend(name: str) -> None:
            queried.append((name, site.now))

        discovery.refresh_backend = refresh_backend  # type: ignore[method-assign]
        store = CatalogStore(site.redis, 5)
        following = asyncio.create_task(Rediscovery(store, discovery, 5.0, lambda: site.now).run())
        try:
            await eventually_async(lambda: _is_followed(site))
            for name in ("near", "near", "unknown", "near", "far"):
                await store.report_missing(name)
            await eventually_async(lambda: len(queried) == 2)
            assert queried == [("near", 1000.0), ("far", 1000.0)]
            site.now += 5.0
            await eventually_async(lambda: len(queried) == 3)
            assert queried[2] == ("near", 1005.0)
        finally:
            await cancel([following])


async def _is_followed(site: Site) -> bool:
    (_, subscribers), *_ = await site.redis.pubsub_numsub("nz:catalog:missing")
    return bool(subscribers)

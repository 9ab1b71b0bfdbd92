"""The catalog in a real Redis: published, notified, read and expired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from authz.admit import retry_headers
from authz.catalog.view import CatalogView
from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.catalog.store import CatalogStore
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.settings import Settings
from gateway.stores.redis import connect
from tests import redis_server
from tests.polling import eventually_async

TIMEOUT_S = 5.0


def catalog(*models: str) -> Catalog:
    hosted = {
        name: HostedModel(name, ("b",), {"size": 1}, digests={"b": "d"}, loaded=("b",), shown={"model_info": {}})
        for name in models
    }
    return Catalog((BackendState("b", 1, "0.20.0"),), hosted)


@pytest.fixture(scope="module", params=["one server", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """URL and number of shards."""
    if request.param == "cluster":
        with redis_server.cluster() as cluster:
            yield cluster[0].url, 3
    else:
        with redis_server.one_server() as server:
            yield server.url, 1


@pytest.fixture
async def store(servers: tuple[str, int]) -> AsyncIterator[CatalogStore]:
    url, shards = servers
    redis = connect(Settings(redis_url=SecretStr(url), redis_shards=shards, redis_timeout_s=TIMEOUT_S))
    await redis.delete("nz:catalog")
    yield CatalogStore(redis, TIMEOUT_S)
    await redis.aclose()


async def test_a_published_snapshot_is_fetched_once(store: CatalogStore) -> None:
    assert await store.fetch(unless_version="") is None
    await store.publish(catalog("a:latest"), ttl_s=60)
    first = await store.fetch(unless_version="")
    assert first is not None
    assert first.catalog == catalog("a:latest")
    again = await store.fetch(unless_version=first.version)
    assert again is not None
    assert again.catalog is None


async def test_a_change_is_pushed_to_the_view(store: CatalogStore) -> None:
    view = CatalogView(store, poll_s=3600.0)
    running = asyncio.create_task(view.run())
    try:
        # The view may find the first one by polling. It learns of the others only from notifications.
        for models in (["a:latest"], ["a:latest", "b:latest"], []):
            await store.publish(catalog(*models), ttl_s=60)
            await eventually_async(lambda models=models: _models_of(view) == models)  # type: ignore[misc]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _models_of(view: CatalogView) -> list[str] | None:
    try:
        return list(view.current().models)
    except StoreUnavailable:
        return None


async def test_a_snapshot_is_valid_for_its_time_to_live(store: CatalogStore) -> None:
    now = 1000.0
    view = CatalogView(store, monotonic=lambda: now)
    with pytest.raises(StoreUnavailable):
        view.current()
    await store.publish(catalog("a:latest"), ttl_s=60)
    await view.refresh()
    now += 59
    assert list(view.current().models) == ["a:latest"]
    now += 2
    with pytest.raises(StoreUnavailable):
        view.current()


async def test_a_snapshot_without_backends_is_unavailable_until_the_next_one(store: CatalogStore) -> None:
    view = CatalogView(store, monotonic=lambda: 1000.0)
    for _ in range(2):
        await store.publish(catalog("a:latest"), ttl_s=60)
        await view.refresh()
        assert list(view.current().models) == ["a:latest"]
        await store.publish(Catalog((), {}), ttl_s=60)
        await view.refresh()
        with pytest.raises(StoreUnavailable):
            view.current()


async def test_backends_that_have_been_silent_for_long_are_what_is_missing(store: CatalogStore) -> None:
    """W31 of the comparison with the real Ollama."""
    view = CatalogView(store, monotonic=lambda: 1000.0)
    await store.publish(Catalog((BackendState("b", 1, None, answers=False),), {}), ttl_s=60)
    await view.refresh()
    assert not view.known
    with pytest.raises(Denied) as denied:
        view.current()
    assert (denied.value.code, denied.value.status) == (Code.BACKEND_UNAVAILABLE, 503)
    assert int(retry_headers(denied.value)["retry-after"]) > 0
    await store.publish(Catalog((BackendState("b", 1, "0.20.0"),), {}), ttl_s=60)
    await view.refresh()
    assert view.current().models == {}


async def test_a_snapshot_that_redis_lost_is_valid_until_it_would_have_expired(
    store: CatalogStore, servers: tuple[str, int]
) -> None:
    now = 1000.0
    view = CatalogView(store, monotonic=lambda: now)
    await store.publish(catalog("a:latest"), ttl_s=60)
    await view.refresh()
    redis = connect(Settings(redis_url=SecretStr(servers[0]), redis_shards=servers[1], redis_timeout_s=TIMEOUT_S))
    await redis.delete("nz:catalog")
    await redis.aclose()
    now += 30
    await view.refresh()
    assert list(view.current().models) == ["a:latest"]
    now += 31
    with pytest.raises(StoreUnavailable):
        view.current()


async def test_a_report_of_a_missing_model_names_its_backend(store: CatalogStore) -> None:
    async with store.missing_reports() as next_report:
        assert await next_report(0.01) is None
        await store.report_missing("near")
        assert await next_report(5) == "near"


async def test_an_unreachable_redis_is_unavailable() -> None:
    redis = connect(Settings(redis_url=SecretStr("redis://127.0.0.1:1/0")))
    store = CatalogStore(redis, 0.5)
    for call in (
        store.publish(catalog(), 60),
        store.fetch(""),
        store.changes().__aenter__(),
        store.report_missing("near"),
        store.missing_reports().__aenter__(),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    await redis.aclose()

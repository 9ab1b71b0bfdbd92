"""The published snapshot when the backends change, with a real Redis and simulated Ollamas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from authz.catalog.view import CatalogView
from gateway.catalog.store import CatalogStore
from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.stores.redis import connect
from ops.control.discovery import Discovery
from ops.control.prober import Prober
from ops.simulator.app import SimulatorOptions, run_simulator
from tests.ports import free_port


class Scene:
    """Two Ollamas, `near` with the models a and b and `far` with b and c, an unreachable one, and a store."""

    def __init__(self, near: str, far: str, store: CatalogStore, discovery: Discovery) -> None:
        self.near = Backend(name="near", base_url=near)
        self.far = Backend(name="far", base_url=far)
        self.unreachable = Backend(name="unreachable", base_url=f"http://127.0.0.1:{free_port()}")
        self.store = store
        self.discovery = discovery

    async def published(self) -> dict[str, tuple[str, ...]] | None:
        """Model -> backends; None without a snapshot."""
        snapshot = await self.store.fetch(unless_version="")
        if snapshot is None or snapshot.catalog is None:
            return None
        return {name: model.backends for name, model in snapshot.catalog.models.items()}


@pytest.fixture
async def scene(redis_url: str) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        near = await stack.enter_async_context(run_simulator(SimulatorOptions(port=0, models=("a:1", "b:1"))))
        far = await stack.enter_async_context(run_simulator(SimulatorOptions(port=0, models=("b:1", "c:1"))))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        near_alone = (Backend(name="near", base_url=near.url),)
        settings = Settings.model_validate(
            {"redis_url": redis_url, "redis_timeout_s": 5, "ollama_backends": near_alone}
        )
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        await redis.flushall()
        store = CatalogStore(redis, settings.redis_timeout_s)
        yield Scene(near.url, far.url, store, Discovery(settings, Prober(session, 30), store, first_publish_s=30))


async def test_a_new_list_is_published_at_once_and_in_its_order(scene: Scene) -> None:
    await scene.discovery.use((scene.near, scene.far))
    assert await scene.published() == {"a:1": ("near",), "b:1": ("near", "far"), "c:1": ("far",)}
    await scene.discovery.use((scene.far, scene.near))
    assert await scene.published() == {"a:1": ("near",), "b:1": ("far", "near"), "c:1": ("far",)}
    await scene.discovery.use((scene.far,))
    assert await scene.published() == {"b:1": ("far",), "c:1": ("far",)}


async def test_a_name_with_another_address_is_another_backend(scene: Scene) -> None:
    await scene.discovery.use((scene.near,))
    await scene.discovery.use((Backend(name="near", base_url=scene.far.base_url),))
    assert await scene.published() == {"b:1": ("near",), "c:1": ("near",)}


async def test_an_unreachable_backend_does_not_delay_the_others(scene: Scene) -> None:
    await scene.discovery.use((scene.unreachable, scene.near))
    assert await scene.published() == {"a:1": ("near",), "b:1": ("near",)}
    assert not await scene.discovery.refresh()


async def test_a_removed_backend_is_not_published_even_without_an_observation_of_the_rest(scene: Scene) -> None:
    await scene.discovery.use((scene.near, scene.unreachable))
    view = CatalogView(scene.store)
    await view.refresh()
    assert view.current().models
    await scene.discovery.use((scene.unreachable,))
    assert await scene.published() == {}
    await view.refresh()
    with pytest.raises(StoreUnavailable):
        view.current()


async def test_an_outage_of_all_backends_leaves_the_last_snapshot(scene: Scene) -> None:
    await scene.discovery.use((scene.near,))
    gone = Backend(name="near", base_url=scene.unreachable.base_url)
    await scene.discovery.use((gone,))
    assert await scene.published() == {"a:1": ("near",), "b:1": ("near",)}


async def test_a_running_refresh_does_not_publish_backends_that_were_removed_meanwhile(scene: Scene) -> None:
    refreshing = asyncio.create_task(scene.discovery.refresh())
    await asyncio.sleep(0)
    await scene.discovery.use((scene.far,))
    await refreshing
    assert await scene.published() == {"b:1": ("far",), "c:1": ("far",)}

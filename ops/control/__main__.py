"""control's composition root: discovery, the reaper, and the files that Envoy reads."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

import aiohttp
import structlog

from gateway import running
from gateway.quota.epoch import EpochWatch
from gateway.quota.redis_quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.catalog import CatalogStore
from gateway.stores.ledger import Ledger
from gateway.stores.postgres import Database
from gateway.stores.redis_connection import connect
from gateway.stores.retention import Retention
from ops import envoy_files
from ops.control.discovery import Discovery, Prober
from ops.control.reaper import Reaper
from ops.control.upkeep import Upkeep

log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set."""
    envoy_files.write(settings, settings.envoy_config_dir)
    async with AsyncExitStack() as stack:
        database = Database(settings)
        stack.push_async_callback(database.close)
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        quota = RedisQuota(redis, settings, Ledger(database).usage_of)
        stack.push_async_callback(quota.aclose)

        prober = Prober(session, settings.ollama_connect_timeout_s)
        discovery = Discovery(settings, prober, CatalogStore(redis))
        background = [
            asyncio.create_task(discovery.run(), name="discovery"),
            asyncio.create_task(EpochWatch(quota, discovery.at_once).run(), name="epoch"),
            asyncio.create_task(Reaper(quota, settings.hold_lease_s).run(), name="reaper"),
            asyncio.create_task(Upkeep(Retention(database), settings).run(), name="upkeep"),
        ]
        stack.push_async_callback(running.cancel, background)
        await running.until_stopped(stop, *background)


def main() -> int:
    """The process. Returns its exit code."""
    return running.run("control", serve)


if __name__ == "__main__":
    sys.exit(main())

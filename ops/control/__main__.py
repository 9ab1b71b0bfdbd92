"""control's composition root: discovery, the reaper, the audit chain, retention, and the files that Envoy reads."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

import aiohttp
import structlog
from aiohttp import web

from gateway.catalog.store import CatalogStore
from gateway.ledger.store import Ledger
from gateway.queue.redis.queue import RedisQueue, queue_rules
from gateway.quota.epoch import EpochWatch
from gateway.quota.redis.quota import RedisQuota
from gateway.service import http_server, lifecycle, metrics_server
from gateway.service.readiness import Readiness
from gateway.settings import Settings, default_env_file
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from ops.control import health
from ops.control.checkpoints import Checkpoints
from ops.control.discovery import Discovery
from ops.control.metrics import Sampling
from ops.control.prober import Prober
from ops.control.reaper import Reaper
from ops.control.rediscovery import Rediscovery
from ops.control.reload import Reload
from ops.control.replica_health import ReplicaHealth
from ops.control.rollout import Rollout
from ops.control.upkeep import RetentionJob, seal_audit_log
from ops.data_plane.admin import EnvoyAdmin
from ops.data_plane.validation import find_envoy
from ops.database.audit_seal import AuditSealer
from ops.database.retention import Retention

log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set."""
    async with AsyncExitStack() as stack:
        database = Database(settings)
        stack.push_async_callback(database.close)
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        quota = RedisQuota(redis, settings, Ledger(database).usage_of)
        stack.push_async_callback(quota.aclose)

        prober = Prober(session, settings.ollama_connect_timeout_s)
        catalog_store = CatalogStore(redis, settings.redis_timeout_s)
        discovery = Discovery(settings, prober, catalog_store)
        admin = EnvoyAdmin(settings.envoy_admin_listen)
        rollout = Rollout(settings.envoy_config_dir, admin, find_envoy())
        reload = Reload(settings, default_env_file(), rollout, discovery)
        files_written = asyncio.Event()
        background = [
            asyncio.create_task(_follow_backends(reload, discovery, files_written), name="backends"),
            asyncio.create_task(lifecycle.leave_postgres_that_shuts_down(database), name="database"),
            asyncio.create_task(EpochWatch(quota, discovery.at_once).run(), name="epoch"),
            asyncio.create_task(Rediscovery(catalog_store, discovery).run(), name="rediscovery"),
            asyncio.create_task(Reaper(quota, settings.hold_lease_s).run(), name="reaper"),
            asyncio.create_task(RetentionJob(Retention(database), settings).run(), name="upkeep"),
            asyncio.create_task(seal_audit_log(AuditSealer(database)), name="seal"),
        ]
        queue = RedisQueue(redis, settings.redis_timeout_s, queue_rules(settings)) if settings.has_queue else None
        if queue is not None:
            background.append(asyncio.create_task(ReplicaHealth(admin, queue).run(), name="replica_health"))
        if (checkpoints := Checkpoints.of(settings, database)) is not None:
            background.append(asyncio.create_task(checkpoints.run(), name="checkpoints"))
        if settings.control_http_listen:
            readiness = Readiness(database, quota, lambda: discovery.current)
            pages = _serve_health(health.application(readiness.missing), settings.control_http_listen, files_written)
            background.append(asyncio.create_task(pages, name="health"))
        stack.push_async_callback(lifecycle.cancel, background)
        sampling = Sampling(quota, discovery, database, settings.metrics_tenants_max, queue)
        envoy = {"/metrics/envoy": admin.prometheus}
        await stack.enter_async_context(metrics_server.serving(settings.metrics_listen, (sampling.sample,), envoy))
        await lifecycle.until_stopped(stop, *background)


async def _follow_backends(reload: Reload, discovery: Discovery, files_written: asyncio.Event) -> None:
    """Discovery publishes backends to authz, so it starts only when Envoy has them."""
    await reload.start()
    files_written.set()
    await asyncio.gather(reload.run(), discovery.run())


async def _serve_health(application: web.Application, listen: str, files_written: asyncio.Event) -> None:
    """Serves the pages until cancelled, once Envoy's files exist: the start of Envoy waits for these pages."""
    await files_written.wait()
    pages = http_server.runner_of(application)
    await http_server.start(pages, listen)
    try:
        await asyncio.Event().wait()
    finally:
        await pages.cleanup()


def main() -> int:
    """The process. Returns its exit code."""
    return lifecycle.run("control", serve)


if __name__ == "__main__":
    sys.exit(main())

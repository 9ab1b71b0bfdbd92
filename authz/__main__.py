"""authz's composition root: builds everything once, serves both edges, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import structlog

from authz.admit import Admitter
from authz.catalog.pages import CatalogPages, UsageSources
from authz.catalog.queue_view import QueueView
from authz.catalog.view import CatalogView
from authz.check import CheckPipeline
from authz.context import ContextRule
from authz.denials import DenialLog
from authz.keys.authenticate import Authenticator
from authz.keys.change_listener import ChangeListener
from authz.keys.hashing import KeyHasher
from authz.keys.last_used import LastUsed
from authz.keys.repository import KeyRepository
from authz.keys.throttle import FailureThrottle
from authz.keys.verified_cache import VerifiedKeyCache
from authz.line import Line
from authz.metrics import CATALOG_VALID_SECONDS, QUEUE_WAITING
from authz.server import Authorization
from authz.waiting import POLL_S, WaitingRequests
from gateway.catalog.store import CatalogStore
from gateway.errors import StoreUnavailable
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import Ledger
from gateway.queue.redis.queue import RedisQueue, queue_rules
from gateway.queue.redis.turns import RedisTurns
from gateway.quota.epoch import EpochWatch
from gateway.quota.redis.quota import RedisQuota
from gateway.quota.redis.status import QuotaStatus
from gateway.rpc.health import Health
from gateway.rpc.server import make_server
from gateway.service import http_server, lifecycle, metrics_server
from gateway.service.readiness import Readiness
from gateway.service.tls import ServiceTls
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.tracing.exporter import exporting
from gateway.values import Limits, Sizes

log = structlog.get_logger()

# On shutdown: how long to wait for Redis to accept the entries of the last denials.
FLUSH_TIMEOUT_S = 2.0
# On shutdown: how long before the end of the grace time the requests in the queue are denied.
STOP_WAITING_S = 2.0
# On startup: how long to wait for the stores before serving without them.
STARTUP_WAIT_S = 3.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then lets running checks finish."""
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(exporting(settings, "authz", settings.authz_grpc_listen))
        database = Database(settings)
        stack.push_async_callback(database.close)
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        hasher = KeyHasher.from_settings(settings)
        stack.callback(hasher.close)

        defaults = Limits(settings.default_rpm, settings.default_tpm, settings.default_concurrent)
        sizes = Sizes(settings.max_num_predict, settings.max_request_body_bytes)
        key_repository = KeyRepository(database, defaults, sizes)
        ledger = Ledger(database)
        quota = RedisQuota(redis, settings, ledger.usage_of)
        stack.push_async_callback(quota.aclose)
        verified = VerifiedKeyCache()
        change_listener = ChangeListener(
            database,
            on_revoked=verified.evict,
            on_policy_changed=verified.outdate,
            on_gap=lambda _: verified.outdate(None),
        )
        catalog = CatalogView(CatalogStore(redis, settings.redis_timeout_s))
        CATALOG_VALID_SECONDS.set_function(lambda: catalog.valid_s)
        last_used = LastUsed(key_repository)
        authenticator = Authenticator(
            key_repository,
            hasher,
            change_listener,
            verified,
            trust_s=settings.redis_key_cache_ttl_s,
            identity_window_s=settings.ollama_identity_window_s,
            now=lambda: datetime.now(UTC),
        )
        throttle = FailureThrottle(redis, settings.auth_failure_rate_limit_per_ip_per_min, settings.redis_timeout_s)
        status = QuotaStatus(redis, settings)
        outbox = Outbox(
            quota,
            settlements_max=settings.max_concurrent_requests,
            denials_max=settings.audit_buffer_size,
        )
        turns_redis = connect(settings, block_s=POLL_S)
        stack.push_async_callback(turns_redis.aclose)
        turns = RedisTurns(turns_redis, settings.redis_timeout_s)
        waiting = WaitingRequests(quota, turns, secrets.token_hex(8), settings.queue_max_wait_s)
        QUEUE_WAITING.set_function(lambda: waiting.waiting)
        if settings.queue_max_wait_s and not settings.has_queue:
            log.warning("queue_off", reason=f"REDIS_SHARDS is {settings.redis_shards}, and the queue needs one shard")
        admitter = Admitter(
            quota,
            context=ContextRule(status.corrected, refuses=settings.context_overflow == "refuse"),
            model_refusal_status=settings.model_refusal_status,
            line=Line(quota, waiting, outbox.submit) if settings.has_queue else None,
            has_affinity=settings.routing_affinity,
        )
        pipeline = CheckPipeline(
            authenticator,
            throttle,
            last_used,
            catalog,
            admitter,
            DenialLog(outbox),
            prefer_loaded=settings.routing_prefer_loaded,
            body_bytes_ceiling=settings.max_request_body_bytes_ceiling,
            model_refusal_status=settings.model_refusal_status,
        )

        background = [
            asyncio.create_task(lifecycle.leave_postgres_that_shuts_down(database), name="database"),
            asyncio.create_task(change_listener.run(), name="change_listener"),
            asyncio.create_task(catalog.run(), name="catalog"),
            asyncio.create_task(last_used.run(), name="last_used"),
            asyncio.create_task(outbox.run(), name="outbox"),
            asyncio.create_task(EpochWatch(quota, outbox.resubmit_unconfirmed).run(), name="epoch"),
        ]
        if settings.has_queue:
            background.append(asyncio.create_task(waiting.run(), name="waiting"))
        if spans is not None:
            background.append(asyncio.create_task(spans.run(), name="spans"))
        stack.push_async_callback(lifecycle.cancel, background)
        stack.push_async_callback(outbox.wait_idle, FLUSH_TIMEOUT_S)

        await stack.enter_async_context(metrics_server.serving(settings.metrics_listen))
        readiness = Readiness(database, quota, lambda: catalog.known)
        queue_view: QueueView | None = None
        if settings.has_queue:
            queue_view = QueueView(RedisQueue(redis, settings.redis_timeout_s, queue_rules(settings)).status)
            stack.push_async_callback(queue_view.aclose)
        sources = UsageSources(quota, status, ledger, queue_view)
        pages = http_server.runner_of(CatalogPages(pipeline, settings, readiness.missing, sources).application())
        tls = ServiceTls(settings.service_tls) if settings.service_tls else None
        await http_server.start(pages, settings.authz_http_listen, tls.http1_context() if tls else None)
        stack.push_async_callback(pages.cleanup)

        await _wait_for_stores(change_listener, catalog)
        health = Health()
        methods = (*Authorization(pipeline, settings, spans).methods(), *health.methods())
        server = make_server(settings, methods, settings.max_request_body_bytes_ceiling)
        await server.start(settings.authz_grpc_listen, tls)
        stack.push_async_callback(server.stop, settings.gateway_shutdown_grace_s)
        stack.push_async_callback(health.announce_shutdown)

        await lifecycle.until_stopped(stop, *background)
        log.info("draining")
        # Requests that wait are served during the grace time, and denied before its end.
        grace_s = settings.gateway_shutdown_grace_s
        asyncio.get_running_loop().call_later(max(grace_s / 2, grace_s - STOP_WAITING_S), waiting.stop)


async def _wait_for_stores(change_listener: ChangeListener, catalog: CatalogView) -> None:
    """Waits briefly for revocations and the catalog, so that a new worker does not answer 503 while its peers serve."""
    try:
        async with asyncio.timeout(STARTUP_WAIT_S):
            await catalog.refresh()
            await change_listener.wait_connected()
    except (StoreUnavailable, TimeoutError) as error:
        log.warning("serving_before_stores_answer", reason=str(error) or type(error).__name__)


def main() -> int:
    """The process. Returns its exit code."""
    return lifecycle.run("authz", serve)


if __name__ == "__main__":
    sys.exit(main())

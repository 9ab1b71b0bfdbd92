"""The meter's composition root: builds everything once, serves, and settles the rest before it exits."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from gateway.catalog.store import CatalogStore
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import Ledger
from gateway.queue.redis.queue import RedisQueue, queue_rules
from gateway.quota.epoch import EpochWatch
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Entry
from gateway.rpc.health import Health
from gateway.rpc.message_sizes import ANSWER_BYTES_MAX
from gateway.rpc.server import make_server
from gateway.service import lifecycle, metrics_server
from gateway.service.tls import ServiceTls
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.tracing.exporter import exporting
from gateway.wire.timeouts import attempt_wait_s
from meter.access_log.cause_stream import BLOCK_S, CauseStream
from meter.access_log.disconnect_causes import DisconnectCauses
from meter.access_log.orphans import Orphans
from meter.access_log.server import AccessLog
from meter.access_log.shared_causes import SharedCauses
from meter.attempts import Attempts
from meter.drain import Drain
from meter.genai_metrics import GenAiMetrics
from meter.metrics import LEASES, DeliveredTokens, LedgerMetrics
from meter.missing_models import MissingModels
from meter.prompt_log.protection import protection
from meter.prompt_log.store import PromptLog
from meter.prompt_log.writer import PromptWriter
from meter.renewal import Renewal
from meter.server import ExternalProcessor
from meter.tracer import StreamTracer

log = structlog.get_logger()

SETTLE_TIMEOUT_S = 5.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set. Streams in flight then have the grace time, and are cut and settled after it."""
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(exporting(settings, "meter", settings.meter_grpc_listen))
        tracer = None if spans is None else StreamTracer(spans)
        database = Database(settings)
        stack.push_async_callback(database.close)
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        blocking_redis = connect(settings, block_s=BLOCK_S)
        stack.push_async_callback(blocking_redis.aclose)
        missing_models = MissingModels(CatalogStore(redis, settings.redis_timeout_s))
        metrics = LedgerMetrics(settings.metrics_tenants_max)

        genai_metrics = None
        if spans is not None and settings.otel_metrics_exporter == "otlp":
            genai_metrics = GenAiMetrics(spans)

        def on_recorded(entries: Sequence[Entry]) -> None:
            metrics.record(entries)
            missing_models.note(entries)
            if genai_metrics is not None:
                genai_metrics.record(entries)

        ledger = Ledger(database, on_recorded)
        quota = RedisQuota(redis, settings, ledger.usage_of)
        stack.push_async_callback(quota.aclose)

        outbox = Outbox(
            quota,
            settlements_max=settings.max_concurrent_requests,
            denials_max=settings.audit_buffer_size,
            # Its denials are those that Envoy's access log reports.
            admission_unknown=True,
        )
        renewal = Renewal(quota, settings.hold_lease_s)
        LEASES.set_function(lambda: renewal.running)
        shared_causes = SharedCauses(CauseStream(blocking_redis, settings.redis_timeout_s))
        submit = tracer.finishing(outbox.submit) if tracer else outbox.submit
        disconnect_causes = DisconnectCauses(submit, shared_causes.publish)
        orphans = Orphans(quota, outbox.submit)
        retention = timedelta(days=settings.prompt_log_default_retention_days)
        prompts = PromptWriter(PromptLog(database), retention, protect=protection(settings))
        drain = Drain(quota, ledger, f"{socket.gethostname()}:{settings.meter_grpc_listen}")
        epoch_watch = EpochWatch(quota, renewal.at_once, outbox.resubmit_unconfirmed, shared_causes.read_from_start)
        background = [
            asyncio.create_task(lifecycle.leave_postgres_that_shuts_down(database), name="database"),
            asyncio.create_task(outbox.run(), name="outbox"),
            asyncio.create_task(renewal.run(), name="renewal"),
            asyncio.create_task(drain.run(), name="drain"),
            asyncio.create_task(missing_models.run(), name="missing_models"),
            asyncio.create_task(prompts.run(), name="prompts"),
            asyncio.create_task(shared_causes.run(disconnect_causes.resolve), name="causes"),
            asyncio.create_task(orphans.run(), name="orphans"),
            asyncio.create_task(epoch_watch.run(), name="epoch"),
        ]
        if spans is not None:
            background.append(asyncio.create_task(spans.run(), name="spans"))
        stack.push_async_callback(lifecycle.cancel, background)
        stack.push_async_callback(outbox.wait_idle, SETTLE_TIMEOUT_S)
        stack.callback(disconnect_causes.close)

        delivered = DeliveredTokens(renewal.delivered_tokens, settings.metrics_tenants_max)
        await stack.enter_async_context(metrics_server.serving(settings.metrics_listen, [delivered.sample]))
        attempts = None
        if settings.has_queue:
            queue = RedisQueue(redis, settings.redis_timeout_s, queue_rules(settings))
            attempts = Attempts(queue, attempt_wait_s(settings.queue_max_wait_s, settings.ollama_read_timeout_s))
        health = Health()
        methods = (
            *ExternalProcessor(outbox, renewal, disconnect_causes, prompts, attempts=attempts, tracer=tracer).methods(),
            *AccessLog(disconnect_causes, orphans, outbox, settings.trusted_networks).methods(),
            *health.methods(),
        )
        server = make_server(settings, methods, max(ANSWER_BYTES_MAX, 2 * settings.max_request_body_bytes_ceiling))
        tls = ServiceTls(settings.service_tls) if settings.service_tls else None
        await server.start(settings.meter_grpc_listen, tls)
        stack.push_async_callback(server.stop, settings.gateway_shutdown_grace_s)
        stack.push_async_callback(health.announce_shutdown)

        await lifecycle.until_stopped(stop, *background)
        log.info("draining")


def main() -> int:
    """The process. Returns its exit code."""
    return lifecycle.run("meter", serve)


if __name__ == "__main__":
    sys.exit(main())

"""show-queue: who runs and who waits now."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import rich_click as click
from rich.text import Text

from gateway.queue.port import QueueStatus, TicketStatus
from gateway.queue.redis.queue import RedisQueue, queue_rules
from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.wire.names import replica_clusters
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_table
from ops.database.tenants import Tenant, TenantRepository


@click.command("show-queue")
@json_option
@pass_session
def show_queue(session: Session, as_json: bool) -> None:
    """Show the slots of each replica, and which tenants run and wait for them now."""
    document = session.run(lambda database: queue_document(session.settings, database))
    if as_json:
        return print_json(document)
    if not session.settings.has_queue:
        click.echo("no request waits in the queue, because QUEUE_MAX_WAIT_S is 0 or REDIS_SHARDS is more than 1")
    print_table(
        (
            Column("backend"),
            Column("replica"),
            Column("slots", right=True),
            Column("running", right=True),
            Column("waiting", right=True),
            Column("oldest s", right=True),
            Column("suspended"),
        ),
        [
            (
                backend["name"],
                replica["url"],
                replica["slots"],
                replica["running"],
                backend["waiting"],
                _seconds(backend["oldest_wait_ms"]),
                Text("yes", style="red") if replica["suspended"] else "no",
            )
            for backend in document["backends"]
            for replica in backend["replicas"]
        ],
        empty="no backends",
    )
    click.echo()
    return print_table(
        (
            Column("tenant"),
            Column("weight", right=True),
            Column("running", right=True),
            Column("waiting", right=True),
            Column("oldest s", right=True),
            Column("tokens", right=True),
        ),
        [
            (
                tenant["tenant"],
                tenant["weight"],
                tenant["running"],
                tenant["waiting"],
                _seconds(tenant["oldest_wait_ms"]),
                tenant["tokens"],
            )
            for tenant in document["tenants"]
        ],
        empty="no request runs or waits",
    )


async def queue_document(settings: Settings, database: Database) -> dict[str, Any]:
    """The document of `show-queue --json`. Raises StoreUnavailable."""
    redis = connect(settings)
    try:
        status = await RedisQueue(redis, settings.redis_timeout_s, queue_rules(settings)).status()
    finally:
        await redis.aclose()
    tenants = {tenant.id: tenant for tenant in await TenantRepository(database).list_tenants()}
    now_ms = int(time.time() * 1000)
    return {
        "backends": [_backend(backend, status, now_ms) for backend in settings.backends],
        "tenants": [
            {
                "tenant": _name(tenants.get(tenant_id), tenant_id),
                "weight": _weight(tenants.get(tenant_id)),
                "running": each.running,
                "waiting": each.waiting,
                "oldest_wait_ms": _oldest_ms((t for t in status.tickets if t.tenant_id == tenant_id), now_ms),
                "tokens": round(each.virtual_tokens * _weight(tenants.get(tenant_id))),
            }
            for tenant_id, each in sorted(status.tenants.items())
        ],
    }


def _backend(backend: Backend, status: QueueStatus, now_ms: int) -> dict[str, Any]:
    clusters = replica_clusters(backend.name, backend.addresses)
    replicas = []
    for cluster, url in zip(clusters, backend.urls, strict=True):
        known = status.replicas.get(cluster)
        replicas.append(
            {
                "url": url,
                "slots": known.slots if known else backend.slots_given or 1,
                "running": known.running if known else 0,
                "suspended": known.is_suspended if known else False,
            }
        )
    tickets = [ticket for ticket in status.tickets if set(ticket.replicas) & set(clusters)]
    return {
        "name": backend.name,
        "replicas": replicas,
        "waiting": len(tickets),
        "oldest_wait_ms": _oldest_ms(tickets, now_ms),
    }


def _oldest_ms(tickets: Iterable[TicketStatus], now_ms: int) -> int:
    return max((now_ms - ticket.arrived_at_ms for ticket in tickets), default=0)


def _name(tenant: Tenant | None, tenant_id: int) -> str:
    return tenant.name if tenant else f"deleted tenant {tenant_id}"


def _weight(tenant: Tenant | None) -> int:
    return (tenant.policy["weight"] if tenant else None) or 1


def _seconds(wait_ms: int) -> str:
    return f"{wait_ms / 1000:.1f}"

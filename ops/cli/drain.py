"""drain-envoy."""

from __future__ import annotations

import asyncio

import rich_click as click

from ops.cli.session import Session, pass_session
from ops.embedded.probes import envoy_drain


@click.command("drain-envoy")
@pass_session
def drain_envoy(session: Session) -> None:
    """Let this machine's Envoy finish its requests, before it is stopped."""
    drain = envoy_drain(session.settings.envoy_admin_listen, session.settings.gateway_shutdown_grace_s)

    async def drained() -> None:
        await drain()

    asyncio.run(drained())

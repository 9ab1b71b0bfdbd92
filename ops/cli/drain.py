"""drain-envoy."""

from __future__ import annotations

import asyncio

import rich_click as click

from gateway.errors import GatewayError
from ops.cli.session import Session, pass_session
from ops.host.probes import envoy_answers, envoy_drain


@click.command("drain-envoy")
@pass_session
def drain_envoy(session: Session) -> None:
    """Let this machine's Envoy finish its requests, before it is stopped."""
    admin = session.settings.envoy_admin_listen
    if not asyncio.run(_drained(admin, session.settings.gateway_shutdown_grace_s)):
        raise GatewayError(f"no Envoy answers at {admin}; run this where it runs, or correct ENVOY_ADMIN_LISTEN")


async def _drained(admin: str, patience_s: float) -> bool:
    """False when there is no Envoy to drain."""
    if not await envoy_answers(admin):
        return False
    await envoy_drain(admin, patience_s)()
    return True

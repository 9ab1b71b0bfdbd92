"""drain-envoy."""

from __future__ import annotations

import asyncio

import rich_click as click

from gateway.errors import GatewayError
from ops.cli.session import Session, pass_session
from ops.host.probes import envoy_drain, envoy_responds


@click.command("drain-envoy")
@pass_session
def drain_envoy(session: Session) -> None:
    """Make this machine's Envoy refuse new connections and finish its requests, so that it can be stopped.

    Waits at most GATEWAY_SHUTDOWN_GRACE_S seconds.
    """
    admin = session.settings.envoy_admin_listen
    if not asyncio.run(_drain(admin, session.settings.gateway_shutdown_grace_s)):
        raise GatewayError(
            f"no Envoy answers at {admin}; run this command on Envoy's machine, or correct ENVOY_ADMIN_LISTEN"
        )


async def _drain(admin: str, timeout_s: float) -> bool:
    """False when no Envoy answers at `admin`."""
    if not await envoy_responds(admin):
        return False
    await envoy_drain(admin, timeout_s)()
    return True

"""connect: a forwarder that adds a key, for clients that cannot send one."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from pathlib import Path

import aiohttp
import rich_click as click
from aiohttp import web

from authz.keys import key_format
from authz.keys.key_format import ApiKey
from gateway.errors import GatewayError
from ops.cli.typed_key import read_typed_key
from ops.cli.up import Address
from ops.embedded.options import HostPort
from ops.host.addresses import is_loopback
from ops.host.key_forwarder import KeyForwarder

KEY_VARIABLE = "GATEWAY_API_KEY"
CHECK_TIMEOUT_S = 30.0


@click.command()
@click.option("--url", metavar="URL", required=True, help="Address of the gateway.")
@click.option(
    "--listen",
    type=Address(),
    default="127.0.0.1:11434",
    show_default=True,
    help="Loopback address to listen on. The default is that of Ollama, which clients use without a setting.",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trust this certificate authority, a file in PEM, such as caddy-root.crt of the state directory.",
)
def connect(url: str, listen: HostPort, ca_file: Path | None) -> None:
    """Forward requests on a loopback address to the gateway, with a key, until Ctrl-C.

    For clients that cannot send a key, such as Ollama's own command line. The key is that of GATEWAY_API_KEY, or of a
    prompt. Every program of this machine can use it meanwhile.
    """
    if not is_loopback(listen.host):
        raise click.UsageError("--listen: expected a loopback address, because whatever reaches it can use the key")
    key = key_format.parse(os.environ.get(KEY_VARIABLE) or read_typed_key())
    if key is None:
        raise GatewayError("the input is not a valid key: its length or its check digits are wrong; copy it again")
    asyncio.run(_serve(url.rstrip("/"), listen, key, ca_file))


async def _serve(url: str, listen: HostPort, key: ApiKey, ca_file: Path | None) -> None:
    trust = ssl.create_default_context(cafile=ca_file) if ca_file else True
    await _check_key(url, key, trust)
    runner = web.AppRunner(
        KeyForwarder(url, key.secret, trust).application(), access_log=None, handler_cancellation=True
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, listen.host, listen.port).start()
        except OSError as error:
            raise GatewayError(
                f"{listen} cannot be used ({error.strerror}); choose another one with --listen"
            ) from None
        click.echo(f"http://{listen} forwards to {url} with the key {key.prefix}; Ctrl-C ends it")
        click.echo(f"OLLAMA_HOST={listen} ollama list")
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()


async def _check_key(url: str, key: ApiKey, trust: ssl.SSLContext | bool) -> None:
    """Raises GatewayError unless the gateway accepts the key."""
    headers = {"Authorization": f"Bearer {key.secret.get_secret_value()}"}
    timeout = aiohttp.ClientTimeout(CHECK_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as client,
            client.get(f"{url}/v1/models", ssl=trust, allow_redirects=False) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise GatewayError(f"{url} does not answer: {error or type(error).__name__}") from None
    if status == 401:
        raise GatewayError(f"the gateway at {url} does not accept the key {key.prefix}; ask its operator for a new one")
    if status != 200:
        raise GatewayError(f"{url}/v1/models returns {status}; check the address of the gateway")

"""An aiohttp site on `HOST:PORT` or `unix:/path`, the second with mode 0600."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from aiohttp import web

from gateway.errors import CannotListen

# Envoy lets no request through that has more in its headers (`max_request_headers_kb`). What is over aiohttp's own
# limits it would answer in words of its own, and log with a traceback in which the header stands.
HEADER_BYTES_MAX = 64 * 1024


def runner_of(application: web.Application) -> web.AppRunner:
    """What serves the application: without a log of its own, and without unpacking what a caller packed.

    Nobody here reads a packed body, and one that is broken would otherwise be reported by aiohttp with a traceback when
    it discards the rest of a refused request.
    """
    return web.AppRunner(
        application,
        access_log=None,
        auto_decompress=False,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )


async def start(runner: web.AppRunner, listen: str, tls: ssl.SSLContext | None = None) -> None:
    """Sets `runner` up and binds it, in plain text without `tls`. Raises CannotListen."""
    await runner.setup()
    try:
        await _bind(runner, listen, tls)
    except OSError:
        raise CannotListen(listen) from None


async def _bind(runner: web.AppRunner, listen: str, tls: ssl.SSLContext | None) -> None:
    if not listen.startswith("unix:"):
        host, _, port = listen.rpartition(":")
        await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls).start()
        return
    path = Path(listen.removeprefix("unix:"))
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(path), ssl_context=tls).start()
    finally:
        os.umask(before)

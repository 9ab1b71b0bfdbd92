"""An aiohttp site on `HOST:PORT` or `unix:/path`, the second with mode 0600."""

from __future__ import annotations

import ssl

from aiohttp import web

from gateway.errors import CannotListen
from gateway.service.listening import bind_failure, private_socket

# Envoy accepts no more than this in the headers of a request (`max_request_headers_kb`). aiohttp has lower limits:
# it would answer in its own words, and log a traceback that contains the header.
HEADER_BYTES_MAX = 64 * 1024


def runner_of(application: web.Application) -> web.AppRunner:
    """A runner for the application, without aiohttp's access log and without decompression of request bodies.

    No handler reads a compressed body, and aiohttp would log a traceback for a broken one when it discards the rest of
    a denied request.
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
        with private_socket(listen):
            await _site(runner, listen, tls).start()
    except OSError as error:
        raise CannotListen(listen, bind_failure(error)) from None


def _site(runner: web.AppRunner, listen: str, tls: ssl.SSLContext | None) -> web.BaseSite:
    if listen.startswith("unix:"):
        return web.UnixSite(runner, listen.removeprefix("unix:"), ssl_context=tls)
    host, _, port = listen.rpartition(":")
    return web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls)

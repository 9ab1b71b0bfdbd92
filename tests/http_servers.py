"""aiohttp applications on loopback in a separate thread, for tests without an event loop."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from tests.certificates import Certificate


class HttpServers:
    """Serves applications until the context of `servers` ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.runners: list[web.AppRunner] = []

    def serve(self, application: web.Application, certificate: Certificate | None = None) -> str:
        """Serves the application and returns its URL, which is https with a certificate."""
        port = asyncio.run_coroutine_threadsafe(self._serve(application, certificate), self._loop).result(10)
        return f"{'https' if certificate else 'http'}://127.0.0.1:{port}"

    async def _serve(self, application: web.Application, certificate: Certificate | None) -> int:
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        self.runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port: int = runner.addresses[0][1]
        return port


@contextmanager
def servers() -> Iterator[HttpServers]:
    """Runs the event loop that all applications share."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers")
    thread.start()
    running = HttpServers(loop)
    try:
        yield running
    finally:
        for runner in running.runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

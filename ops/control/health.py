"""control's health for probes: the process runs (`/healthz`), and its dependencies are available (`/readyz`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web


def application(missing: Callable[[], Awaitable[list[str]]]) -> web.Application:
    """Serves the two pages. `missing` returns the names of unavailable dependencies."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        names = await missing()
        return web.json_response(names or {"status": "ready"}, status=503 if names else 200)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app

"""`GET /metrics` of a process, on an internal listener. No public route leads to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder

from gateway.errors import StoreUnavailable
from gateway.metrics.process import measure_event_loop_lag
from gateway.metrics.registry import REGISTRY
from gateway.service import http_server, lifecycle

Sampler = Callable[[], Awaitable[None]]
Page = Callable[[], Awaitable[str]]


@asynccontextmanager
async def serving(
    listen: str | None, samplers: Sequence[Sampler] = (), pages: Mapping[str, Page] | None = None
) -> AsyncIterator[None]:
    """Serves the metrics of this process at `listen` until the context ends; does nothing for None.

    `samplers` set gauges that need I/O, right before each exposition. `pages` are the metrics of other programs, by
    path; a page that raises StoreUnavailable becomes a 503. Raises CannotListen.
    """
    if listen is None:
        yield
        return
    runner = http_server.runner_of(application(samplers, pages or {}))
    await http_server.start(runner, listen)
    lag = asyncio.create_task(measure_event_loop_lag(), name="event_loop_lag")
    try:
        yield
    finally:
        await lifecycle.cancel([lag])
        await runner.cleanup()


def application(samplers: Sequence[Sampler], pages: Mapping[str, Page]) -> web.Application:
    """The pages of `serving`."""

    async def metrics(request: web.Request) -> web.Response:
        await asyncio.gather(*(sample() for sample in samplers))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # In a thread, because many time series take longer than a chunk of an answer may wait.
        text = await asyncio.to_thread(encode, REGISTRY)
        return web.Response(body=text, headers={"content-type": content_type})

    def served(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(_: web.Request) -> web.Response:
            try:
                return web.Response(body=(await page()).encode(), headers={"content-type": CONTENT_TYPE_LATEST})
            except StoreUnavailable as error:
                raise web.HTTPServiceUnavailable(text=str(error)) from None

        return handler

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), *(web.get(path, served(page)) for path, page in pages.items())])
    return app

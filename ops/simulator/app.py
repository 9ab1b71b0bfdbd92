"""The server: takes each request through the doors, the route table and its handler, and keeps the record."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from ops.simulator import access
from ops.simulator.access import Auth
from ops.simulator.control.api import Control
from ops.simulator.control.behaviour import Behaviour
from ops.simulator.control.recorder import Outcome, Record, Recorder
from ops.simulator.dialects.base import Refusal
from ops.simulator.handlers.exchange import Exchange, Struck
from ops.simulator.handlers.generation import refuse_if_struck
from ops.simulator.models.library import MODELS, Library
from ops.simulator.routes import Route, Stray, find, path_of

BODY_BYTES_MAX = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve: port 0 takes a free one; with `tls_cert` and `tls_key` it speaks TLS."""

    host: str = "127.0.0.1"
    port: int = 11434
    models: Sequence[str] = MODELS
    behaviour: Behaviour = field(default_factory=Behaviour)
    auth: Auth | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


class Simulator:
    """One simulated server: its behaviour, models and records, and the aiohttp application over them."""

    def __init__(
        self, behaviour: Behaviour | None = None, *, models: Sequence[str] = MODELS, auth: Auth | None = None
    ) -> None:
        self.behaviour = behaviour or Behaviour()
        self.library = Library(time.time)
        self.library.replace_all(models)
        self.recorder = Recorder(time.time)
        self._auth = auth
        self._loading = asyncio.Lock()

    def application(self) -> web.Application:
        """A new application. Serve it with `handler_cancellation=True`, as `serve` and `running` do: otherwise a
        client that goes away is noticed at the next frame only."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(Control(self.behaviour, self.library, self.recorder).routes())
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(_go_headers)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        target, _, query = request.raw_path.partition("?")
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        record = self.recorder.begin(request.method, path_of(target), query, headers)
        outcome: Outcome = "failed"
        try:
            response, outcome = await self._serve(request, record)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except ConnectionError:
            outcome = "cancelled"
            # Nobody reads it, and to raise would be logged as if it were a fault of this program.
            return web.Response(status=499)
        finally:
            self.recorder.end(record, outcome)
        return response

    async def _serve(self, request: web.Request, record: Record) -> tuple[web.StreamResponse, Outcome]:
        body = await request.read()
        self.recorder.keep_body(record, body)
        refused = access.refuse(request, self._auth)
        if refused is not None:
            record.status = refused.status
            return refused, "complete"
        found = find(request.method, request.raw_path)
        if isinstance(found, Stray):
            record.status = found.status
            return _stray(found), "complete"
        faults = self.behaviour.strike(found.path, runs_model=found.route.runs_model)
        record.faults = tuple(faults)
        exchange = Exchange(
            request=request,
            record=record,
            body=body,
            path_parameter=found.segment,
            faults=faults,
            behaviour=self.behaviour,
            library=self.library,
            loading=self._loading,
        )
        outcome = await _answer(exchange, found.route)
        return exchange.response or web.Response(status=500), outcome


def application(
    behaviour: Behaviour | None = None, *, models: Sequence[str] = MODELS, auth: Auth | None = None
) -> web.Application:
    """A simulated Ollama as an aiohttp application."""
    return Simulator(behaviour, models=models, auth=auth).application()


@dataclass(frozen=True, slots=True)
class Running:
    """A simulated Ollama that answers at `url`, and its insides."""

    url: str
    simulator: Simulator


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Running]:
    """Serves while the context lasts. Raises OSError when the address is taken or the certificate is not there."""
    simulator = Simulator(options.behaviour, models=options.models, auth=options.auth)
    context = None
    if options.tls_cert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    runner = web.AppRunner(simulator.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port, ssl_context=context).start()
        port = runner.addresses[0][1]
        yield Running(f"{'https' if context else 'http'}://{options.host}:{port}", simulator)
    finally:
        await runner.cleanup()


async def serve(options: Options, ready: Callable[[str], None] | None = None) -> None:
    """Serves until cancelled; calls `ready` with the URL once connections are accepted. Raises as `running`."""
    async with running(options) as server:
        if ready is not None:
            ready(server.url)
        await asyncio.Event().wait()


async def _answer(exchange: Exchange, route: Route) -> Outcome:
    try:
        if not route.runs_model:
            refuse_if_struck(exchange)
        await route.handler(exchange)
    except Struck:
        return "failed"
    except Refusal as refusal:
        content_type, body = route.refusal(refusal)
        try:
            await exchange.send(refusal.status, content_type, body, refusal.headers)
        except Struck:
            return "failed"
        return "failed" if {"status", "error"} & exchange.faults.keys() else "complete"
    return "complete"


def _stray(stray: Stray) -> web.Response:
    if stray.location:
        return web.Response(status=stray.status, headers={"Location": stray.location})
    texts = {404: b"404 page not found", 405: b"405 method not allowed"}
    headers = {"Content-Type": "text/plain", **({"Allow": ", ".join(stray.allow)} if stray.allow else {})}
    return web.Response(status=stray.status, body=texts[stray.status], headers=headers)


async def _go_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    if response.headers.get("Content-Type") == "application/octet-stream":
        del response.headers["Content-Type"]

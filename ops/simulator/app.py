"""The server: checks and routes each request, calls its handler and records what happened."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from ops.simulator.access import Auth, add_origin_headers, deny_access
from ops.simulator.control.api import ControlApi
from ops.simulator.control.behaviour import Behaviour
from ops.simulator.control.recorder import Ending, Record, Recorder
from ops.simulator.dialects.errors import ApiError
from ops.simulator.handlers.exchange import Exchange, FaultInjected
from ops.simulator.handlers.faults import raise_injected_status
from ops.simulator.models.library import MODELS, Library
from ops.simulator.routes import ROUTES
from ops.simulator.routing import NoRoute, Route, match, path_of
from ops.simulator.scheduling.scheduler import Limits, Scheduler

BODY_BYTES_MAX = 256 * 2**20


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """How to serve. Port 0 selects a free one; `tls_cert` and `tls_key` enable TLS."""

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
        self.scheduler = Scheduler(time.time, self._limits)
        self._auth = auth

    def application(self) -> web.Application:
        """A new application.

        Serve it with `handler_cancellation=True`, as `serve` and `run_simulator` do: otherwise a disconnected client
        is noticed at the next frame only.
        """
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(ControlApi(self.behaviour, self.library, self.recorder, self.scheduler).routes())
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(_adapt_headers)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        target, _, query = request.raw_path.partition("?")
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        record = self.recorder.begin(request.method, path_of(target), query, headers)
        ending: Ending = "failed"
        try:
            response, ending = await self._serve(request, record)
        except asyncio.CancelledError:
            ending = "cancelled"
            raise
        except ConnectionError:
            ending = "cancelled"
            # The client is disconnected and does not read this. Raising would log the disconnect as an error.
            return web.Response(status=499)
        finally:
            self.recorder.end(record, ending)
        return response

    async def _serve(self, request: web.Request, record: Record) -> tuple[web.StreamResponse, Ending]:
        body = await request.read()
        self.recorder.add_body(record, body)
        denial = deny_access(request, self._auth)
        found = match(ROUTES, request.method, request.raw_path)
        if denial is not None:
            record.status = denial.status
            if isinstance(found, NoRoute) and found.allow and denial.status == 204:
                denial.headers["Allow"] = ", ".join(found.allow)
            return denial, "complete"
        if isinstance(found, NoRoute):
            record.status = found.status
            return _no_route_response(found), "complete"
        faults = self.behaviour.draw_faults(found.path, runs_model=found.route.runs_model)
        record.faults = tuple(faults)
        exchange = Exchange(
            request=request,
            record=record,
            body=body,
            path_parameter=found.path_parameter,
            faults=faults,
            behaviour=self.behaviour,
            library=self.library,
            scheduler=self.scheduler,
        )
        ending = await _call_handler(exchange, found.route)
        return exchange.response or web.Response(status=500), ending

    def _limits(self) -> Limits:
        now = self.behaviour
        return Limits(now.num_parallel, now.max_queue, now.max_loaded_models, now.load_s)


def application(
    behaviour: Behaviour | None = None, *, models: Sequence[str] = MODELS, auth: Auth | None = None
) -> web.Application:
    """A simulated Ollama as an aiohttp application."""
    return Simulator(behaviour, models=models, auth=auth).application()


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A simulated Ollama that listens at `url`, and its state."""

    url: str
    simulator: Simulator


@asynccontextmanager
async def run_simulator(options: SimulatorOptions) -> AsyncIterator[RunningSimulator]:
    """Serves while the context lasts. Raises OSError when the address is in use or the certificate is missing."""
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
        yield RunningSimulator(f"{'https' if context else 'http'}://{options.host}:{port}", simulator)
    finally:
        await runner.cleanup()


async def serve(options: SimulatorOptions, on_ready: Callable[[str], None] | None = None) -> None:
    """Serves until cancelled. Calls `on_ready` with the URL once connections are accepted. Raises OSError."""
    async with run_simulator(options) as running:
        if on_ready is not None:
            on_ready(running.url)
        await asyncio.Event().wait()


async def _call_handler(exchange: Exchange, route: Route) -> Ending:
    try:
        if not route.runs_model:
            raise_injected_status(exchange)
        if (fault := exchange.faults.get("verbatim")) is not None:
            await exchange.send(fault.status, "", fault.body, fault.headers)
            return "failed"
        await route.handler(exchange)
    except FaultInjected:
        return "failed"
    except ApiError as error:
        content_type, body = route.encode_error(error)
        try:
            await exchange.send(error.status, content_type, body, error.headers)
        except FaultInjected:
            return "failed"
        return "failed" if {"status", "error"} & exchange.faults.keys() else "complete"
    return "complete"


def _no_route_response(no_route: NoRoute) -> web.Response:
    if no_route.location:
        return web.Response(status=no_route.status, headers={"Location": no_route.location})
    bodies = {404: b"404 page not found", 405: b"405 method not allowed"}
    headers = {"Content-Type": "text/plain", **({"Allow": ", ".join(no_route.allow)} if no_route.allow else {})}
    return web.Response(status=no_route.status, body=bodies[no_route.status], headers=headers)


async def _adapt_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers for scripts of another origin, and removes those that aiohttp adds and Go's server does not."""
    add_origin_headers(request, response)
    response.headers.popall("Server", None)
    if response.status == 204:
        response.headers.popall("Content-Type", None)
    if response.headers.get("Content-Type") == "application/octet-stream":
        del response.headers["Content-Type"]

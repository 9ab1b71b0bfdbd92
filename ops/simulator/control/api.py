"""The endpoints below `/_sim/`, through which a test or the demo controls the simulator. The real Ollama has none.

| request | effect |
|---|---|
| `GET /_sim/requests` | the records, oldest first; `?method=POST` and `?request_id=ID` filter them |
| `GET /_sim/requests?idle_s=5` | waits until no request runs, at most that long |
| `DELETE /_sim/requests` | drops the records |
| `GET`, `PUT /_sim/behaviour` | pace and faults; a field that the document omits returns to its initial value |
| `GET`, `PUT /_sim/models` | the installed models: names, or objects (see `Library.replace_all`) |
| `GET /_sim/runners` | the models in memory: how many requests run and wait, and whether the model is being loaded |
| `DELETE /_sim/runners` | kills the runners: their requests fail, and the next ones load the model again |
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from ops.simulator.control.behaviour import Behaviour
from ops.simulator.control.recorder import Recorder
from ops.simulator.models.descriptions import tags_row
from ops.simulator.models.library import Library
from ops.simulator.scheduling.scheduler import Scheduler

IDLE_S_MAX = 60.0


class ControlApi:
    """The handlers, over the objects that they show and change."""

    def __init__(self, behaviour: Behaviour, library: Library, recorder: Recorder, scheduler: Scheduler) -> None:
        self._behaviour = behaviour
        self._initial = behaviour.model_copy(deep=True)
        self._library = library
        self._recorder = recorder
        self._scheduler = scheduler

    def routes(self) -> list[web.RouteDef]:
        """The routes to add to the application."""
        return [
            web.get("/_sim/requests", self.list_requests, allow_head=False),
            web.delete("/_sim/requests", self.delete_requests),
            web.get("/_sim/behaviour", self.get_behaviour, allow_head=False),
            web.put("/_sim/behaviour", self.put_behaviour),
            web.get("/_sim/models", self.list_models, allow_head=False),
            web.put("/_sim/models", self.put_models),
            web.get("/_sim/runners", self.list_runners, allow_head=False),
            web.delete("/_sim/runners", self.delete_runners),
        ]

    async def list_requests(self, request: web.Request) -> web.Response:
        """The records, oldest first; 504 when requests still run after the wait."""
        wait_s = request.query.get("idle_s")
        if wait_s is not None and not await self._recorder.wait_idle(min(float(wait_s), IDLE_S_MAX)):
            return web.json_response({"error": "requests are still running"}, status=504)
        return web.json_response(self._recorder.listing(request.query.get("method"), request.query.get("request_id")))

    async def delete_requests(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """204."""
        self._recorder.clear()
        return web.Response(status=204)

    async def get_behaviour(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The current behaviour."""
        return web.json_response(self._behaviour.model_dump(mode="json"))

    async def put_behaviour(self, request: web.Request) -> web.Response:
        """The new behaviour; 400 with the reason when the document is invalid."""
        try:
            changes = await _read_document(request, dict)
            self._behaviour.replace(changes, self._initial)
        except (ValidationError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        self._scheduler.apply_limits()
        return await self.get_behaviour(request)

    async def list_models(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The installed models as `/api/tags` shows them."""
        return web.json_response([tags_row(model) for model in self._library.newest_first()])

    async def put_models(self, request: web.Request) -> web.Response:
        """Installs exactly the models of the document; 400 with the reason when one is invalid."""
        try:
            self._library.replace_all(await _read_document(request, list))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        installed = {model.digest for model in self._library.newest_first()}
        for runner in self._scheduler.runners():
            if runner.model.digest not in installed:
                self._scheduler.unload(runner.model)
        return await self.list_models(request)

    async def list_runners(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The models in memory, in order of loading."""
        rows = [
            {
                "model": runner.model.name.display,
                "is_loading": runner.is_loading,
                "running": runner.slots.taken,
                "waiting": runner.slots.waiting,
            }
            for runner in self._scheduler.runners()
        ]
        return web.json_response(rows)

    async def delete_runners(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """204."""
        self._scheduler.kill()
        return web.Response(status=204)


async def _read_document(request: web.Request, kind: type) -> Any:
    document = json.loads(await request.read())
    if not isinstance(document, kind):
        raise ValueError(f"a JSON {'object' if kind is dict else 'array'} is expected")  # noqa: TRY004
    return document

"""`/_sim/`: what a test or the demo asks the simulator itself. The real Ollama has no such path.

| request | |
|---|---|
| `GET /_sim/requests` | the records, oldest first; `?method=POST` and `?request_id=ID` leave others out |
| `GET /_sim/requests?idle_s=5` | waits at most that long until no request runs |
| `DELETE /_sim/requests` | forgets them |
| `GET`, `PUT /_sim/behaviour` | pace and faults; a field that is not named returns to its value at the start |
| `PUT /_sim/models` | the model list: names, or objects with `name`, `capabilities`, `digest` |
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

IDLE_S_MAX = 60.0


class Control:
    """The handlers, over the parts they show and change."""

    def __init__(self, behaviour: Behaviour, library: Library, recorder: Recorder) -> None:
        self._behaviour = behaviour
        self._initial = behaviour.model_copy(deep=True)
        self._library = library
        self._recorder = recorder

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/_sim/requests", self.requests, allow_head=False),
            web.delete("/_sim/requests", self.clear),
            web.get("/_sim/behaviour", self.behaviour, allow_head=False),
            web.put("/_sim/behaviour", self.behave),
            web.get("/_sim/models", self.models, allow_head=False),
            web.put("/_sim/models", self.install),
        ]

    async def requests(self, request: web.Request) -> web.Response:
        """The records, oldest first; 504 when the requests were not over in time."""
        wait_s = request.query.get("idle_s")
        if wait_s is not None and not await self._recorder.idle(min(float(wait_s), IDLE_S_MAX)):
            return web.json_response({"error": "requests are still running"}, status=504)
        return web.json_response(self._recorder.listing(request.query.get("method"), request.query.get("request_id")))

    async def clear(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """204."""
        self._recorder.clear()
        return web.Response(status=204)

    async def behaviour(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The behaviour as it is now."""
        return web.json_response(self._behaviour.model_dump(mode="json"))

    async def behave(self, request: web.Request) -> web.Response:
        """The behaviour as it is then; 400 with the reason when the document is no behaviour."""
        try:
            changes = await _document(request, dict)
            self._behaviour.become(changes, self._initial)
        except (ValidationError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self.behaviour(request)

    async def models(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The installed models as `/api/tags` shows them."""
        return web.json_response([tags_row(model) for model in self._library.newest_first()])

    async def install(self, request: web.Request) -> web.Response:
        """Installs exactly the models of the document; 400 with the reason when one is invalid."""
        try:
            self._library.replace_all(await _document(request, list))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self.models(request)


async def _document(request: web.Request, kind: type) -> Any:
    document = json.loads(await request.read())
    if not isinstance(document, kind):
        raise ValueError(f"a JSON {'object' if kind is dict else 'array'} is expected")  # noqa: TRY004
    return document

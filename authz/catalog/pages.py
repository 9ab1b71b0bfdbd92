"""The small HTTP side of authz: the listings of Ollama and OpenAI from the snapshot, health, and the playground.

A thin edge like the gRPC one: it checks the key with the same core and decides nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

from aiohttp import web

from authz.admit import refusal_headers
from authz.catalog import playground
from authz.check import CheckPipeline
from authz.checked_request import CheckedRequest, presented_key
from authz.request import as_model_name, read_model
from gateway import __version__
from gateway.catalog.allow_list import effective_models
from gateway.catalog.ollama_version import lowest
from gateway.catalog.snapshot import HostedModel
from gateway.catalog.timing import CHECK_TIMEOUT_S
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.request.client_address import USER_AGENT_CHARACTERS_MAX, client_ip
from gateway.settings import Settings
from gateway.values import Principal
from gateway.wire.dialects import error_body
from gateway.wire.names import ERROR_HEADER, PEER_HEADER, REQUEST_ID_HEADER

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Where a request keeps whose it is, for the row of a refusal that comes later.
_PRINCIPAL = "principal"


class CatalogPages:
    """The aiohttp application. `readiness` names what is missing, nothing when all is there."""

    def __init__(self, gate: CheckPipeline, settings: Settings, readiness: Callable[[], Awaitable[list[str]]]) -> None:
        self._gate = gate
        self._settings = settings
        self._readiness = readiness

    def application(self) -> web.Application:
        """Routes as Envoy forwards them; whatever else arrives is a 404."""
        app = web.Application(client_max_size=self._settings.max_request_body_bytes, middlewares=[self._errors])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/playground", self._playground),
                web.get("/api/version", self._version),
                web.get("/api/tags", self._tags),
                web.get("/api/ps", self._ps),
                web.post("/api/show", self._show),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{name:.+}", self._model),
            ]
        )
        return app

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The one place where a refusal becomes an HTTP answer."""
        attempt = self._attempt(request)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await handler(request)
        except (Denied, StoreUnavailable, TimeoutError) as error:
            denial = await self._gate.refuse(attempt, error, request.get(_PRINCIPAL))
        except ConnectionError:
            # The caller left in the middle of its request, so nobody reads what is answered.
            denial = Denied(Code.INVALID_REQUEST)
        except web.HTTPException as error:
            denial = await self._gate.refuse(attempt, _as_denied(error), request.get(_PRINCIPAL))
        return web.Response(
            status=denial.status,
            body=error_body(attempt.dialect, denial.code, denial.message, attempt.request_id),
            headers={ERROR_HEADER: str(denial.code), **refusal_headers(denial)},
            content_type="application/json",
        )

    def _attempt(self, request: web.Request) -> CheckedRequest:
        headers = request.headers
        return CheckedRequest(
            request_id=headers.get(REQUEST_ID_HEADER) or str(uuid4()),
            method=request.method,
            path=request.path,
            key=presented_key(headers.get("authorization"), headers.get("x-api-key")),
            client_ip=client_ip(
                headers.get(PEER_HEADER, ""), headers.get("x-forwarded-for"), self._settings.trusted_networks
            ),
            user_agent=headers.get("user-agent", "")[:USER_AGENT_CHARACTERS_MAX],
            content_encoding=headers.get("content-encoding", ""),
            body=b"",
        )

    async def _principal(self, request: web.Request) -> Principal:
        principal = await self._gate.identify(self._attempt(request))
        request[_PRINCIPAL] = principal
        return principal

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = await self._readiness()
        return web.json_response(missing or {"status": "ready"}, status=503 if missing else 200)

    async def _playground(self, _: web.Request) -> web.Response:
        if not self._settings.playground_enabled:
            raise Denied(Code.NOT_FOUND)
        return web.Response(body=playground.PAGE, content_type="text/html", charset="utf-8", headers=playground.HEADERS)

    async def _version(self, request: web.Request) -> web.Response:
        await self._principal(request)
        states = self._gate.catalog().backends
        # Those that answer; of backends that are all away, what they said last.
        versions = [s.version for s in states if s.version and s.answers] or [s.version for s in states if s.version]
        return web.json_response({"version": lowest(versions) or "0.0.0", "gateway": __version__})

    async def _tags(self, request: web.Request) -> web.Response:
        models = self._effective(await self._principal(request))
        return web.json_response({"models": [{"name": name, "model": name, **m.tag} for name, m in models.items()]})

    async def _ps(self, request: web.Request) -> web.Response:
        effective = self._effective(await self._principal(request))
        running = [dict(row) for row in self._gate.catalog().running if row.get("name") in effective]
        return web.json_response({"models": running})

    async def _show(self, request: web.Request) -> web.Response:
        principal = await self._principal(request)
        name = read_model(await request.read(), request.headers.get("content-encoding", ""))
        model = self._effective(principal).get(name)
        if model is None:
            raise Denied(Code.MODEL_NOT_ALLOWED)
        tag = {key: model.tag[key] for key in ("details", "capabilities", "modified_at") if key in model.tag}
        return web.json_response({"model_info": {}, **tag, **model.shown})

    async def _models(self, request: web.Request) -> web.Response:
        models = self._effective(await self._principal(request))
        return web.json_response({"object": "list", "data": [_openai(name, m) for name, m in models.items()]})

    async def _model(self, request: web.Request) -> web.Response:
        principal = await self._principal(request)
        asked = request.match_info["name"]
        model = self._effective(principal).get(as_model_name(asked))
        if model is None:
            raise Denied(Code.MODEL_NOT_ALLOWED)
        return web.json_response(_openai(asked, model))

    def _effective(self, principal: Principal) -> dict[str, HostedModel]:
        catalog = self._gate.catalog()
        names = effective_models(catalog, allow_all=principal.allow_all_models, allowed=principal.models)
        return {name: catalog.models[name] for name in names}


def _as_denied(error: web.HTTPException) -> Denied:
    match error:
        case web.HTTPRequestEntityTooLarge():
            return Denied(Code.REQUEST_TOO_LARGE)
        case web.HTTPMethodNotAllowed():
            return Denied(Code.METHOD_NOT_ALLOWED)
        case _:
            return Denied(Code.NOT_FOUND)


def _openai(identifier: str, model: HostedModel) -> dict[str, Any]:
    """The model as OpenAI lists it, under the name it was asked for, as Ollama does."""
    owner = model.name.split("/")[-2] if "/" in model.name else "library"
    return {"id": identifier, "object": "model", "created": _unix(model.tag.get("modified_at")), "owned_by": owner}


def _unix(timestamp: object) -> int:
    try:
        # Ollama prints nanoseconds, fromisoformat reads as many digits as there are.
        return int(datetime.fromisoformat(str(timestamp)).timestamp())
    except ValueError:
        return 0

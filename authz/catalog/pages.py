"""The HTTP edge of authz: the model lists of Ollama and OpenAI from the snapshot, health, and the playground.

It checks the key with the same pipeline as the gRPC edge and decides nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Any
from uuid import uuid4

from aiohttp import web

from authz import policy
from authz.admit import retry_headers
from authz.catalog import playground
from authz.catalog.queue_view import QueueView
from authz.catalog.usage import usage_document
from authz.check import CheckPipeline
from authz.checked_request import Body, CheckedRequest
from authz.credential import find_credential
from authz.metrics import count_request
from authz.request import as_model_name, read_model, read_request
from gateway import __version__
from gateway.catalog.allow_list import effective_models
from gateway.catalog.ollama_version import lowest
from gateway.catalog.snapshot import HostedModel
from gateway.errors import Code, Denied, StoreUnavailable, local_code
from gateway.ledger.store import Ledger
from gateway.quota import periods
from gateway.quota.port import Counters, Quota
from gateway.quota.redis.status import QuotaStatus
from gateway.request.client_address import USER_AGENT_CHARACTERS_MAX, client_ip
from gateway.request.model_name import canonical
from gateway.request.token_estimate import estimate_input
from gateway.settings import Settings
from gateway.values import Budgets, Principal
from gateway.wire.dialects import error_body
from gateway.wire.names import ERROR_HEADER, PEER_HEADER, REQUEST_ID_HEADER
from gateway.wire.surfaces import BY_NAME
from gateway.wire.timeouts import BODY_TIMEOUT_S, CHECK_TIMEOUT_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PRINCIPAL = web.RequestKey("principal", Principal)
_DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
# A request to count tokens is one of this surface, except that it generates nothing and needs no output cap.
_COUNTED = replace(BY_NAME["v1_messages"], cap_required=False)
# Pages that need no key.
_PUBLIC = frozenset({"/healthz", "/readyz", "/playground"})


@dataclass(frozen=True, slots=True)
class UsageSources:
    """The stores that know what a caller has used. `queue` is None when there is no queue."""

    quota: Quota
    status: QuotaStatus
    ledger: Ledger
    queue: QueueView | None

    async def recorded(self, principal: Principal, now: datetime) -> Counters:
        """What the ledger has recorded, with nothing held, for a tenant without valid counters."""
        usage = await self.ledger.usage_of(principal.tenant_id, now, ())
        starts = periods.starts(now)
        used = {
            (None if each.subject == "tenant" else each.subject_id, each.period): each.tokens
            for each in usage.used
            if each.period_start == starts[each.period]
        }
        return Counters(used, {}, {})


class CatalogPages:
    """The aiohttp application. `readiness` returns the names of what is missing, an empty list when nothing is."""

    def __init__(
        self,
        pipeline: CheckPipeline,
        settings: Settings,
        readiness: Callable[[], Awaitable[list[str]]],
        sources: UsageSources,
    ) -> None:
        self._pipeline = pipeline
        self._sources = sources
        self._settings = settings
        self._playground_page = playground.assemble_page(settings.playground_docs_url)
        self._readiness = readiness

    def application(self) -> web.Application:
        """The routes as Envoy forwards them; anything else is a 404."""
        app = web.Application(middlewares=[self._authenticated])
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
                web.get("/v1/usage", self._usage),
                web.post("/v1/messages/count_tokens", self._count_tokens),
                web.get("/v1/models/{name:.+}", self._model),
            ]
        )
        return app

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Identifies the caller, and is the one place where a denial becomes an HTTP answer."""
        checked = self._checked(request)
        principal: Principal | None = None
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S) as deadline:
                request[_DEADLINE] = deadline
                if checked.path not in _PUBLIC and request.match_info.http_exception is None:
                    principal = await self._pipeline.identify(checked)
                    request[_PRINCIPAL] = principal
                response = await handler(request)
                if principal is not None:
                    count_request(checked.path, None, is_page=True)
                return response
        except (Denied, StoreUnavailable, TimeoutError) as error:
            denied = await self._pipeline.deny(checked, principal, error)
        except ConnectionError:
            # The caller disconnected in the middle of its request, so this answer is never read.
            denied = Denied(Code.INVALID_REQUEST)
        except web.HTTPException as error:
            denied = await self._pipeline.deny(checked, principal, Denied(local_code(error.status)))
        return web.Response(
            status=denied.status,
            body=error_body(checked.dialect, denied.code, denied.message, checked.request_id, status=denied.status),
            headers={ERROR_HEADER: str(denied.code), **retry_headers(denied)},
            content_type="application/json",
        )

    def _checked(self, request: web.Request) -> CheckedRequest:
        headers = request.headers
        return CheckedRequest(
            request_id=headers.get(REQUEST_ID_HEADER) or str(uuid4()),
            method=request.method,
            path=request.path,
            credential=find_credential(
                headers.get("authorization"),
                headers.get("x-api-key"),
                method=request.method,
                target=request.raw_path,
                received_at_s=datetime.now(UTC).timestamp(),
            ),
            client_ip=client_ip(
                headers.get(PEER_HEADER, ""), headers.get("x-forwarded-for"), self._settings.trusted_networks
            ),
            user_agent=headers.get("user-agent", "")[:USER_AGENT_CHARACTERS_MAX],
            content_encoding=headers.get("content-encoding", ""),
            body=Body(),
        )

    async def _read_body(self, request: web.Request, principal: Principal) -> bytes:
        """Reads at most the bytes that the key may send. The deadline of the check is suspended while they arrive."""
        self._pipeline.check_size(principal, request.content_length or 0)
        maximum, body = self._pipeline.body_bytes_max(principal), bytearray()
        request[_DEADLINE].reschedule(None)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > maximum:
                        sentence = f"the body of the request has more than {maximum} bytes, which this key may send"
                        raise Denied(Code.REQUEST_TOO_LARGE, sentence)
        except TimeoutError:
            raise Denied(Code.REQUEST_TIMEOUT) from None
        request[_DEADLINE].reschedule(asyncio.get_running_loop().time() + CHECK_TIMEOUT_S)
        return bytes(body)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = await self._readiness()
        return web.json_response(missing or {"status": "ready"}, status=503 if missing else 200)

    async def _playground(self, _: web.Request) -> web.Response:
        if not self._settings.playground_enabled:
            raise Denied(Code.NOT_FOUND)
        page, headers = self._playground_page, playground.HEADERS
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def _version(self, _: web.Request) -> web.Response:
        states = self._pipeline.catalog().backends
        # Of the backends that answer; when none does, the last known versions.
        versions = [s.version for s in states if s.version and s.answers] or [s.version for s in states if s.version]
        return web.json_response({"version": lowest(versions) or "0.0.0", "gateway": __version__})

    async def _tags(self, request: web.Request) -> web.Response:
        models = self._effective(request[_PRINCIPAL]).values()
        return web.json_response({"models": [{"name": m.name, "model": m.name, **m.tag} for m in models]})

    async def _ps(self, request: web.Request) -> web.Response:
        effective = self._effective(request[_PRINCIPAL])
        rows = self._pipeline.catalog().running
        running = [dict(row) for row in rows if canonical(str(row.get("name"))) in effective]
        return web.json_response({"models": running})

    async def _show(self, request: web.Request) -> web.Response:
        principal = request[_PRINCIPAL]
        body = await self._read_body(request, principal)
        name = read_model(body, request.headers.get("content-encoding", ""))
        model = self._effective(principal).get(name)
        if model is None:
            raise Denied(Code.MODEL_NOT_ALLOWED)
        tag = {key: model.tag[key] for key in ("details", "capabilities", "modified_at") if key in model.tag}
        return web.json_response({"model_info": {}, **tag, **model.shown})

    async def _models(self, request: web.Request) -> web.Response:
        models = self._effective(request[_PRINCIPAL]).values()
        return web.json_response({"object": "list", "data": [_openai(model.spelling, model) for model in models]})

    async def _model(self, request: web.Request) -> web.Response:
        principal = request[_PRINCIPAL]
        requested = request.match_info["name"]
        model = self._effective(principal).get(as_model_name(requested))
        if model is None:
            raise Denied(Code.MODEL_NOT_ALLOWED)
        return web.json_response(_openai(requested, model))

    async def _count_tokens(self, request: web.Request) -> web.Response:
        """The calibrated estimate of a prompt. It reserves nothing and calls no backend."""
        principal = request[_PRINCIPAL]
        body = await self._read_body(request, principal)
        surface = _COUNTED
        read = read_request(surface, body, request.headers.get("content-encoding", ""))
        policy.decide(principal, surface, read.model, self._pipeline.catalog(), prefer_loaded=False)
        tokens = estimate_input(read.document)
        return web.json_response(
            {"input_tokens": await self._sources.status.corrected(principal.tenant_id, read.model, tokens)}
        )

    async def _usage(self, request: web.Request) -> web.Response:
        principal = request[_PRINCIPAL]
        now = datetime.now(UTC)
        counters = await self._sources.quota.counters(principal.tenant_id)
        if counters is None:
            # The first admission rebuilds them. Until then the ledger has what was used.
            counters = Counters({}, {}, {})
            if principal.key_budgets != Budgets() or principal.tenant_budgets != Budgets():
                counters = await self._sources.recorded(principal, now)
        tenant_window, key_window = await self._sources.status.windows(principal.tenant_id, principal.key_id)
        midnight = datetime.combine(now.date(), time(), UTC)
        today = await self._sources.ledger.usage_by_model(principal.key_id, midnight)
        queue = await self._sources.queue.current() if self._sources.queue else None
        return web.json_response(usage_document(principal, tenant_window, key_window, counters, today, queue, now))

    def _effective(self, principal: Principal) -> dict[str, HostedModel]:
        catalog = self._pipeline.catalog()
        names = effective_models(catalog, allow_all=principal.allow_all_models, allowed=principal.models)
        return {name: catalog.models[name] for name in names}


def _openai(identifier: str, model: HostedModel) -> dict[str, Any]:
    """The model as OpenAI lists it, under the name in the request, as Ollama does."""
    owner = model.name.split("/")[-2] if "/" in model.name else "library"
    return {"id": identifier, "object": "model", "created": _unix(model.tag.get("modified_at")), "owned_by": owner}


def _unix(timestamp: object) -> int:
    try:
        # Ollama prints nanoseconds, fromisoformat reads as many digits as there are.
        return int(datetime.fromisoformat(str(timestamp)).timestamp())
    except ValueError:
        return 0

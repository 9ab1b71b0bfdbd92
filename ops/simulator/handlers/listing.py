"""The read-only routes: version, status, the installed and loaded models, one model, and OpenAI's list of models."""

from __future__ import annotations

import time
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.gojson import ANY, BOOL, MAP, STRING, Struct
from ops.simulator.dialects.media_types import JSON
from ops.simulator.dialects.parameters import bind
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.model_access import find_model
from ops.simulator.models.descriptions import ps_row, show_document, tags_row
from ops.simulator.models.library import Model

_SHOW = Struct(
    "ShowRequest",
    {
        "model": STRING,
        "name": STRING,
        "system": STRING,
        "template": STRING,
        "verbose": BOOL,
        "options": MAP,
        "messages": ANY,
    },
)


async def get_root(exchange: Exchange) -> None:
    """`GET /`."""
    await exchange.send(200, "text/plain; charset=utf-8", b"Ollama is running")


async def get_version(exchange: Exchange) -> None:
    """`GET /api/version`."""
    await exchange.send_json({"version": exchange.behaviour.version})


async def get_status(exchange: Exchange) -> None:
    """`GET /api/status`."""
    disabled = exchange.behaviour.cloud == "disabled"
    await exchange.send_json({"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


async def list_tags(exchange: Exchange) -> None:
    """`GET /api/tags`."""
    await exchange.send_json({"models": [tags_row(model) for model in exchange.library.newest_first()]})


async def list_loaded(exchange: Exchange) -> None:
    """`GET /api/ps`."""
    now = time.time()
    runners = exchange.scheduler.runners()
    rows = [ps_row(runner.model, runner.options.num_ctx, runner.expires_at(now)) for runner in runners]
    await exchange.send_json({"models": rows})


async def show(exchange: Exchange) -> None:
    """`POST /api/show`. Raises ApiError."""
    fields = bind(exchange.body, _SHOW, empty_message="missing request body")
    name = fields.get("model") or fields.get("name") or ""
    exchange.record.model = name
    if not name:
        raise ApiError(400, "model is required")
    model = find_model(exchange, name, show_tag=True)
    await exchange.send_json(show_document(model, verbose=bool(fields.get("verbose"))))


async def list_recommendations(exchange: Exchange) -> None:
    """`GET /api/experimental/model-recommendations`."""
    await exchange.send_json({"recommendations": []})


async def list_openai_models(exchange: Exchange) -> None:
    """`GET /v1/models`; `data` is null when no model is installed."""
    rows = [_openai_row(model, model.name.display) for model in exchange.library.newest_first()]
    await exchange.send(200, JSON, gojson.dump({"object": "list", "data": rows or None}) + b"\n")


async def get_openai_model(exchange: Exchange) -> None:
    """`GET /v1/models/:model`. Raises ApiError."""
    model = find_model(exchange, exchange.path_parameter, show_tag=True)
    await exchange.send(200, JSON, gojson.dump(_openai_row(model, exchange.path_parameter)) + b"\n")


def _openai_row(model: Model, identifier: str) -> dict[str, Any]:
    created = int(model.modified_at.timestamp())
    return {"id": identifier, "object": "model", "created": created, "owned_by": model.name.namespace}

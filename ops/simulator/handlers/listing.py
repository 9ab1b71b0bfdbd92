"""The routes that say what there is: version, status, tags, ps, show, and OpenAI's list of models."""

from __future__ import annotations

from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import JSON, JSON_UTF8, Refusal, bind
from ops.simulator.dialects.gojson import ANY, BOOL, MAP, STRING, Struct
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.generation import find_model
from ops.simulator.models import names
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


async def root(exchange: Exchange) -> None:
    """`GET /`."""
    await exchange.send(200, "text/plain; charset=utf-8", b"Ollama is running")


async def version(exchange: Exchange) -> None:
    """`GET /api/version`."""
    await reply(exchange, {"version": exchange.behaviour.version})


async def status(exchange: Exchange) -> None:
    """`GET /api/status`."""
    disabled = exchange.behaviour.cloud == "disabled"
    await reply(exchange, {"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


async def tags(exchange: Exchange) -> None:
    """`GET /api/tags`."""
    await reply(exchange, {"models": [tags_row(model) for model in exchange.library.newest_first()]})


async def ps(exchange: Exchange) -> None:
    """`GET /api/ps`."""
    await reply(exchange, {"models": [ps_row(entry) for entry in exchange.library.in_memory()]})


async def show(exchange: Exchange) -> None:
    """`POST /api/show`. Raises Refusal."""
    bound = bind(exchange.body, _SHOW, empty="missing request body")
    spelling = bound.get("model") or bound.get("name") or ""
    exchange.record.model = spelling
    if not spelling:
        raise Refusal(400, "model is required")
    model = find_model(exchange, spelling)
    await reply(exchange, show_document(model, verbose=bool(bound.get("verbose"))))


async def recommendations(exchange: Exchange) -> None:
    """`GET /api/experimental/model-recommendations`."""
    await reply(exchange, {"recommendations": []})


async def openai_models(exchange: Exchange) -> None:
    """`GET /v1/models`; `data` is null when there are none."""
    rows = [_openai_row(model, model.name.display) for model in exchange.library.newest_first()]
    await exchange.send(200, JSON, gojson.dump({"object": "list", "data": rows or None}) + b"\n")


async def openai_model(exchange: Exchange) -> None:
    """`GET /v1/models/:model`. Raises Refusal."""
    base, _source = names.split_source(exchange.path_parameter)
    model = exchange.library.find(base)
    if model is None:
        raise Refusal(404, f"model '{exchange.path_parameter}' not found")
    await exchange.send(200, JSON, gojson.dump(_openai_row(model, exchange.path_parameter)) + b"\n")


async def reply(exchange: Exchange, body: Any, status: int = 200) -> None:
    """A native JSON answer."""
    await exchange.send(status, JSON_UTF8, gojson.dump(body))


def _openai_row(model: Model, identifier: str) -> dict[str, Any]:
    created = int(model.modified_at.timestamp())
    return {"id": identifier, "object": "model", "created": created, "owned_by": model.name.namespace}

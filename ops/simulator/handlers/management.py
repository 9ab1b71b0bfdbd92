"""The routes that change the server: pull, push, create, copy, delete, blobs, and the owner's account.

They do what they say to the model list, so that a test can prove they were never reached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import NDJSON, Refusal, bind
from ops.simulator.dialects.gojson import ANY, BOOL, MAP, OPTIONAL_BOOL, STRING, Struct
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.generation import find_model
from ops.simulator.handlers.listing import reply
from ops.simulator.models import names

_TRANSFER = Struct("PullRequest", {"model": STRING, "name": STRING, "insecure": BOOL, "stream": OPTIONAL_BOOL})
_CREATE = Struct(
    "CreateRequest",
    {
        "model": STRING, "name": STRING, "from": STRING, "remote_host": STRING, "stream": OPTIONAL_BOOL,
        "files": MAP, "adapters": MAP, "template": STRING, "system": STRING, "parameters": MAP, "license": ANY,
    },
)  # fmt: skip
_COPY = Struct("CopyRequest", {"source": STRING, "destination": STRING})


async def pull(exchange: Exchange) -> None:
    """`POST /api/pull`: installs a model. Raises Refusal."""
    bound = bind(exchange.body, _TRANSFER, empty="missing request body")
    spelling = _spelling(exchange, bound)
    model = exchange.library.add(_local(spelling))
    layer = {"status": f"pulling {model.digest[:12]}", "digest": f"sha256:{model.digest}", "total": model.size_bytes}
    steps: list[dict[str, Any]] = [
        {"status": "pulling manifest"},
        layer,
        {**layer, "completed": model.size_bytes // 2},
        {**layer, "completed": model.size_bytes},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    await _progress(exchange, bound, steps)


async def push(exchange: Exchange) -> None:
    """`POST /api/push`: only says that it uploads. Raises Refusal."""
    bound = bind(exchange.body, _TRANSFER, empty="missing request body")
    model = find_model(exchange, _spelling(exchange, bound))
    layer = {"status": f"pushing {model.digest[:12]}", "digest": f"sha256:{model.digest}", "total": model.size_bytes}
    await _progress(exchange, bound, [{"status": "retrieving manifest"}, layer, {"status": "success"}])


async def create(exchange: Exchange) -> None:
    """`POST /api/create`: makes a model, from another one's weights if `from` is given. Raises Refusal."""
    bound = bind(exchange.body, _CREATE, empty="missing request body")
    spelling = _spelling(exchange, bound)
    if not bound.get("from") and not bound.get("files"):
        raise Refusal(400, "neither 'from' or 'files' was specified")
    like = find_model(exchange, bound["from"]) if bound.get("from") and not bound.get("remote_host") else None
    model = exchange.library.add(_local(spelling), like)
    layer = {"status": f"using existing layer sha256:{model.digest}"}
    await _progress(exchange, bound, [layer, {"status": "writing manifest"}, {"status": "success"}])


async def copy(exchange: Exchange) -> None:
    """`POST /api/copy`: a second name for the same weights. Raises Refusal."""
    bound = bind(exchange.body, _COPY, empty="missing request body")
    source = exchange.record.model = bound.get("source") or ""
    destination = _local(bound.get("destination") or "")
    like = find_model(exchange, source, missing='model "{}" not found')
    exchange.library.add(destination, like)
    await exchange.send(200, "", b"")


async def delete(exchange: Exchange) -> None:
    """`DELETE /api/delete`: takes the model away. Raises Refusal."""
    bound = bind(exchange.body, _TRANSFER, empty="missing request body")
    exchange.library.remove(find_model(exchange, _spelling(exchange, bound)))
    await exchange.send(200, "", b"")


async def store_blob(exchange: Exchange) -> None:
    """`POST /api/blobs/:digest`: 201 for a new blob, 200 for a known one. Raises Refusal."""
    if exchange.path_parameter in exchange.library.blobs:
        return await exchange.send(200, "", b"")
    if exchange.path_parameter != f"sha256:{hashlib.sha256(exchange.body).hexdigest()}":
        raise Refusal(400, "digest mismatch")
    exchange.library.blobs.add(exchange.path_parameter)
    return await exchange.send(201, "", b"")


async def has_blob(exchange: Exchange) -> None:
    """`HEAD /api/blobs/:digest`: 200 or 404; installed models are blobs too."""
    known = {f"sha256:{model.digest}" for model in exchange.library.newest_first()} | exchange.library.blobs
    await exchange.send(200 if exchange.path_parameter in known else 404, "", b"")


async def me(exchange: Exchange) -> None:
    """`POST /api/me`: the owner is not signed in, and the answer names the host. Raises Refusal."""
    await web(exchange)


async def web(exchange: Exchange) -> None:
    """The routes that Ollama forwards to its cloud in the owner's name. Raises Refusal."""
    find_model(exchange, "any:cloud")


async def signout(exchange: Exchange) -> None:
    """`POST /api/signout` and `DELETE /api/user/keys/:key`: signs the server out."""
    await reply(exchange, None)


async def _progress(exchange: Exchange, bound: dict[str, Any], steps: Iterable[dict[str, Any]]) -> None:
    if bound.get("stream") is False:
        return await reply(exchange, {"status": "success"})
    await exchange.stream(200, NDJSON)
    for step in steps:
        await exchange.frame(gojson.dump(step) + b"\n")
    return await exchange.end()


def _spelling(exchange: Exchange, bound: dict[str, Any]) -> str:
    spelling: str = bound.get("model") or bound.get("name") or ""
    exchange.record.model = spelling
    return spelling


def _local(spelling: str) -> str:
    try:
        base, _source = names.split_source(spelling)
    except names.ConflictingSource:
        raise Refusal(400, "invalid model name") from None
    if names.parse(base) is None:
        raise Refusal(400, "invalid model name")
    return base

"""The routes that change the server: pull, push, create, copy, delete, blobs, and the owner's account.

They really change the list of models, so that a test can prove that a request did not reach them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.gojson import ANY, BOOL, MAP, OPTIONAL_BOOL, STRING, Struct
from ops.simulator.dialects.media_types import NDJSON
from ops.simulator.dialects.parameters import bind
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.model_access import find_model, split_source
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
    """`POST /api/pull`: installs a model. Raises ApiError."""
    fields = bind(exchange.body, _TRANSFER, empty_message="missing request body")
    model = exchange.library.add(_local_name(_requested_name(exchange, fields)))
    size_bytes = model.size_bytes
    layer = {"status": f"pulling {model.digest[:12]}", "digest": f"sha256:{model.digest}", "total": size_bytes}
    steps: list[dict[str, Any]] = [
        {"status": "pulling manifest"},
        layer,
        {**layer, "completed": size_bytes // 2},
        {**layer, "completed": size_bytes},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    await _send_progress(exchange, fields, steps)


async def push(exchange: Exchange) -> None:
    """`POST /api/push`: reports an upload that does not take place. Raises ApiError."""
    fields = bind(exchange.body, _TRANSFER, empty_message="missing request body")
    model = find_model(exchange, _requested_name(exchange, fields))
    layer = {"status": f"pushing {model.digest[:12]}", "digest": f"sha256:{model.digest}", "total": model.size_bytes}
    await _send_progress(exchange, fields, [{"status": "retrieving manifest"}, layer, {"status": "success"}])


async def create(exchange: Exchange) -> None:
    """`POST /api/create`: installs a model, with the weights of the model `from` if given. Raises ApiError."""
    fields = bind(exchange.body, _CREATE, empty_message="missing request body")
    name = _requested_name(exchange, fields)
    if not fields.get("from") and not fields.get("files"):
        raise ApiError(400, "neither 'from' or 'files' was specified")
    source = find_model(exchange, fields["from"]) if fields.get("from") and not fields.get("remote_host") else None
    model = exchange.library.add(_local_name(name), source)
    layer = {"status": f"using existing layer sha256:{model.digest}"}
    await _send_progress(exchange, fields, [layer, {"status": "writing manifest"}, {"status": "success"}])


async def copy(exchange: Exchange) -> None:
    """`POST /api/copy`: installs the same weights under a second name. Raises ApiError."""
    fields = bind(exchange.body, _COPY, empty_message="missing request body")
    source_name = exchange.record.model = fields.get("source") or ""
    destination = _local_name(fields.get("destination") or "")
    source = find_model(exchange, source_name, not_found_message='model "{}" not found')
    exchange.library.add(destination, source)
    await exchange.send(200, "", b"")


async def delete(exchange: Exchange) -> None:
    """`DELETE /api/delete`: removes a model. Raises ApiError."""
    fields = bind(exchange.body, _TRANSFER, empty_message="missing request body")
    model = find_model(exchange, _requested_name(exchange, fields))
    exchange.library.remove(model)
    exchange.scheduler.unload(model)
    await exchange.send(200, "", b"")


async def store_blob(exchange: Exchange) -> None:
    """`POST /api/blobs/:digest`: 201 for a new blob, 200 for a known one. Raises ApiError."""
    digest = exchange.path_parameter
    if digest in exchange.library.blobs:
        return await exchange.send(200, "", b"")
    if digest != f"sha256:{hashlib.sha256(exchange.body).hexdigest()}":
        raise ApiError(400, "digest mismatch")
    exchange.library.blobs.add(digest)
    return await exchange.send(201, "", b"")


async def check_blob(exchange: Exchange) -> None:
    """`HEAD /api/blobs/:digest`: 200 or 404. Installed models are blobs too."""
    known = {f"sha256:{model.digest}" for model in exchange.library.newest_first()} | exchange.library.blobs
    await exchange.send(200 if exchange.path_parameter in known else 404, "", b"")


async def forward_to_cloud(exchange: Exchange) -> None:
    """The routes that Ollama forwards to its cloud in the owner's name; the owner is not signed in. Raises ApiError.

    `POST /api/me` is one of them, and its error names the host.
    """
    find_model(exchange, "any:cloud")


async def sign_out(exchange: Exchange) -> None:
    """`POST /api/signout` and `DELETE /api/user/keys/:key`: sign the server out."""
    await exchange.send_json(None)


async def _send_progress(exchange: Exchange, fields: dict[str, Any], steps: Iterable[dict[str, Any]]) -> None:
    if fields.get("stream") is False:
        return await exchange.send_json({"status": "success"})
    await exchange.stream(200, NDJSON)
    for step in steps:
        await exchange.frame(gojson.dump(step) + b"\n")
    return await exchange.end()


def _requested_name(exchange: Exchange, fields: dict[str, Any]) -> str:
    name: str = fields.get("model") or fields.get("name") or ""
    exchange.record.model = name
    return name


def _local_name(name: str) -> str:
    """The name without its source suffix. Raises ApiError when it is invalid."""
    base, _source = split_source(name)
    if names.parse(base) is None:
        raise ApiError(400, "invalid model name")
    return base

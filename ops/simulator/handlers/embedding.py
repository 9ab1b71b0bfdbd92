"""The embedding routes: `/api/embed`, the older `/api/embeddings`, and `/v1/embeddings`. They never stream."""

from __future__ import annotations

import base64
import math
import struct
import time
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import JSON, Refusal, bind, read_keep_alive, read_options
from ops.simulator.dialects.gojson import ANY, INT, MAP, STRING, Struct
from ops.simulator.generation.request import NUM_CTX
from ops.simulator.generation.text import count_tokens, seeded_random
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.generation import CRASH, find_model, load, refuse_if_struck
from ops.simulator.handlers.listing import reply
from ops.simulator.models.library import Model

_EMBED = Struct(
    "EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "keep_alive": ANY,
        "truncate": gojson.OPTIONAL_BOOL,
        "dimensions": INT,
        "options": MAP,
    },
)
_LEGACY = Struct("EmbeddingRequest", {"model": STRING, "prompt": STRING, "keep_alive": ANY, "options": MAP})
_OPENAI = Struct("EmbedRequest", {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING})


async def embed(exchange: Exchange) -> None:
    """`POST /api/embed`. Raises Refusal."""
    started = time.monotonic_ns()
    bound = bind(exchange.body, _EMBED, empty="missing request body")
    model, vectors = await _embed(exchange, bound, bound.get("input"))
    loaded = time.monotonic_ns()
    body = {"model": model, "embeddings": vectors, "total_duration": loaded - started, "load_duration": 1_019_500}
    counted = _reported(exchange)
    await reply(exchange, {**body, "prompt_eval_count": counted} if counted else body)


async def legacy(exchange: Exchange) -> None:
    """`POST /api/embeddings`: one vector, no counts, and names matched with their case. Raises Refusal."""
    bound = bind(exchange.body, _LEGACY, empty="missing request body")
    prompt = bound.get("prompt") or ""
    _model, vectors = await _embed(exchange, bound, prompt or [], ignore_case=False)
    await reply(exchange, {"embedding": vectors[0] if vectors else []})


async def openai(exchange: Exchange) -> None:
    """`POST /v1/embeddings`, as floats or base64 of little-endian float32. Raises Refusal."""
    bound = bind(exchange.body, _OPENAI)
    if bound.get("encoding_format") not in (None, "", "float", "base64"):
        raise Refusal(400, f"Invalid value for 'encoding_format' = {bound['encoding_format']}", bound=True)
    if bound.get("input") in (None, "", []):
        raise Refusal(400, "invalid input", bound=True)
    model, vectors = await _embed(exchange, bound, bound["input"])
    packed = bound.get("encoding_format") == "base64"
    rows = [
        {"object": "embedding", "embedding": _pack(vector) if packed else vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    counted = _reported(exchange)
    usage = {"prompt_tokens": counted, "total_tokens": counted}
    body = {"object": "list", "data": rows, "model": model, "usage": usage}
    await exchange.send(200, JSON, gojson.dump(body) + b"\n")


async def _embed(
    exchange: Exchange, bound: dict[str, Any], given: Any, *, ignore_case: bool = True
) -> tuple[str, list[list[float]]]:
    spelling = bound.get("model") or ""
    exchange.record.model = spelling
    num_ctx = read_options(bound.get("options")).get("num_ctx", NUM_CTX)
    keep_alive_s = read_keep_alive(bound.get("keep_alive"))
    inputs = [given] if isinstance(given, str) else given or []
    if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
        raise Refusal(400, "invalid input type")
    model = find_model(
        exchange, spelling, ignore_case=ignore_case, missing='model "{}" not found, try pulling it first'
    )
    refuse_if_struck(exchange)
    if "error" in exchange.faults:
        raise Refusal(500, CRASH)
    await load(exchange, model, keep_alive_s, num_ctx)
    exchange.record.prompt_tokens = sum(max(1, min(count_tokens(text), num_ctx)) for text in inputs)
    vectors = [_vector(model, text, bound.get("dimensions") or 0) for text in inputs]
    exchange.library.touch(model, keep_alive_s, num_ctx)
    return spelling, vectors


def _reported(exchange: Exchange) -> int:
    return 0 if "no_usage" in exchange.faults else exchange.record.prompt_tokens


def _vector(model: Model, text: str, dimensions: int) -> list[float]:
    chance = seeded_random(model.digest, text)
    whole = model.family.embedding_length
    raw = [chance.gauss(0, 1) for _ in range(min(dimensions, whole) if dimensions > 0 else whole)]
    length = math.sqrt(sum(value * value for value in raw))
    return [round(value / length, 8) for value in raw]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

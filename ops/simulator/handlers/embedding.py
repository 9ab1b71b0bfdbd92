"""The embedding routes: `/api/embed`, the older `/api/embeddings`, and `/v1/embeddings`. They never stream."""

from __future__ import annotations

import base64
import math
import struct
import time
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Timing
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.gojson import ANY, INT, MAP, OPTIONAL_BOOL, STRING, Struct
from ops.simulator.dialects.media_types import JSON
from ops.simulator.dialects.parameters import bind, read_keep_alive, read_options
from ops.simulator.generation.prompt import Prompt
from ops.simulator.generation.text import count_tokens, seeded_random
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.faults import raise_injected_crash, raise_injected_status
from ops.simulator.handlers.model_access import find_model, launch_options, use_model, use_slot
from ops.simulator.models.library import Model

_NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
_EMBED = Struct(
    "EmbedRequest",
    {"model": STRING, "input": ANY, "keep_alive": ANY, "truncate": OPTIONAL_BOOL, "dimensions": INT, "options": MAP},
)
_EMBEDDINGS = Struct("EmbeddingRequest", {"model": STRING, "prompt": STRING, "keep_alive": ANY, "options": MAP})
_OPENAI = Struct("EmbedRequest", {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING})


async def embed(exchange: Exchange) -> None:
    """`POST /api/embed`. Raises ApiError."""
    timing = Timing()
    fields = bind(exchange.body, _EMBED, empty_message="missing request body")
    model, vectors = await _embed(exchange, fields, fields.get("input"), timing)
    document: dict[str, Any] = {"model": model, "embeddings": vectors}
    if vectors:
        document["total_duration"] = time.monotonic_ns() - timing.started_ns
        document["load_duration"] = timing.loaded_ns - timing.started_ns
    prompt_tokens = _reported_prompt_tokens(exchange)
    await exchange.send_json({**document, "prompt_eval_count": prompt_tokens} if prompt_tokens else document)


async def embeddings(exchange: Exchange) -> None:
    """`POST /api/embeddings`: one vector, no counts, and a model name that is case-sensitive. Raises ApiError.

    It does not truncate, and every error of the runner is a 500.
    """
    fields = bind(exchange.body, _EMBEDDINGS, empty_message="missing request body")
    prompt = fields.get("prompt") or ""
    if not fields.get("model"):
        raise ApiError(400, "model is required")
    fields["truncate"] = False
    _model, vectors = await _embed(exchange, fields, prompt, Timing(), ignore_case=False, error_status=500)
    await exchange.send_json({"embedding": vectors[0] if vectors else []})


async def openai_embeddings(exchange: Exchange) -> None:
    """`POST /v1/embeddings`, as floats or as base64 of little-endian float32. Raises ApiError."""
    fields = bind(exchange.body, _OPENAI)
    encoding = fields.get("encoding_format") or "float"
    if encoding.lower() not in ("float", "base64"):
        message = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        raise ApiError(400, message, at_binding=True)
    texts = fields.get("input")
    if texts is None or texts == []:
        raise ApiError(400, "invalid input", at_binding=True)
    model, vectors = await _embed(exchange, fields, [""] if texts == "" else texts, Timing())
    is_packed = encoding.lower() == "base64"
    rows = [
        {"object": "embedding", "embedding": _pack(vector) if is_packed else vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    prompt_tokens = _reported_prompt_tokens(exchange)
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    document = {"object": "list", "data": rows, "model": model, "usage": usage}
    await exchange.send(200, JSON, gojson.dump(document) + b"\n")


async def _embed(
    exchange: Exchange,
    fields: dict[str, Any],
    texts: Any,
    timing: Timing,
    *,
    ignore_case: bool = True,
    error_status: int | None = None,
) -> tuple[str, list[list[float]]]:
    """The model name of the request and one vector for each text. `error_status` is that of errors of the runner."""
    name = fields.get("model") or ""
    exchange.record.model = name
    options = read_options(fields.get("options"))
    keep_alive_s = read_keep_alive(fields.get("keep_alive"))
    texts = [texts] if isinstance(texts, str) and texts else texts or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type")
    not_found_message = 'model "{}" not found, try pulling it first'
    model = find_model(exchange, name, ignore_case=ignore_case, not_found_message=not_found_message)
    raise_injected_status(exchange)
    raise_injected_crash(exchange)
    num_ctx = options.get("num_ctx") or model.parameters.get("num_ctx")
    launch = launch_options(exchange, model, num_ctx, None, options.get("runner_options", ()))
    async with use_model(exchange, model, launch, keep_alive_s) as runner:
        timing.loaded_ns = time.monotonic_ns()
        if not texts:
            return name, []
        # Each text has a token at its beginning, and one place of the context is kept free.
        counts = [count_tokens(text) + 1 for text in texts]
        if fields.get("truncate") is False and max(counts) >= launch.num_ctx:
            raise ApiError(error_status or 400, "the input length exceeds the context length")
        if "embedding" not in model.capabilities:
            raise ApiError(error_status or 501, _NO_EMBEDDINGS)
        tokens = sum(min(count, launch.num_ctx - 1) for count in counts)
        async with use_slot(exchange, runner, Prompt("".join(texts), tokens), timing):
            vectors = [_vector(model, text, fields.get("dimensions") or 0) for text in texts]
    return name, vectors


def _reported_prompt_tokens(exchange: Exchange) -> int:
    return 0 if "no_usage" in exchange.faults else exchange.record.prompt_tokens


def _vector(model: Model, text: str, dimensions: int) -> list[float]:
    """A unit vector, shortened to `dimensions` unless that is 0."""
    rng = seeded_random(model.digest, text)
    length = model.family.embedding_length
    components = [rng.gauss(0, 1) for _ in range(min(dimensions, length) if dimensions > 0 else length)]
    norm = math.sqrt(sum(component * component for component in components))
    return [round(component / norm, 8) for component in components]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

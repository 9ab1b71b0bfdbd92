"""Finds the model of a request, loads it, and waits for one of its slots."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ops.simulator.dialects.base import Timing
from ops.simulator.dialects.errors import ApiError
from ops.simulator.generation.prompt import ANSWER_MARKER, Prompt
from ops.simulator.generation.text import count_tokens
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.faults import RUNNER_CRASHED, SERVER_BUSY
from ops.simulator.models import names
from ops.simulator.models.library import Model
from ops.simulator.scheduling.prompt_cache import CachedPrompt
from ops.simulator.scheduling.runner import LaunchOptions, Runner, RunnerKilled
from ops.simulator.scheduling.scheduler import ServerBusy

_NUM_CTX_MIN = 4
_NUM_CTX_MIN_VISION = 2048
_SIGNIN_URL = "https://ollama.com/connect?name=gpu-host-1&key=c3NoLWVkMjU1MTkgQUFBQQ"


def find_model(
    exchange: Exchange,
    name: str,
    *,
    required: bool = False,
    ignore_case: bool = True,
    show_tag: bool = False,
    not_found_message: str = "model '{}' not found",
) -> Model:
    """The installed model that any spelling of its name means.

    Raises ApiError as Ollama does for an unknown name, an invalid name, and a name whose request would go to Ollama's
    cloud. With `required` an empty name has its own error, as on `/api/chat`. With `show_tag` the message about an
    unknown model names its tag too.
    """
    if not name and required:
        raise ApiError(400, "model is required")
    base, source = split_source(name)
    if source == "cloud":
        raise _cloud_error(exchange.behaviour.cloud)
    model = exchange.library.find(base, ignore_case=ignore_case)
    if model is None:
        parsed = names.parse(base)
        if parsed is None and base:
            raise ApiError(400, "invalid model name")
        raise ApiError(404, not_found_message.format(parsed.display if parsed and show_tag else name))
    return model


def split_source(name: str) -> tuple[str, names.Source]:
    """`names.split_source` with its error as ApiError."""
    try:
        return names.split_source(name)
    except names.ConflictingSource:
        raise ApiError(400, f"use either :local or :cloud, not both: {json.dumps(name)}") from None


@asynccontextmanager
async def use_model(
    exchange: Exchange, model: Model, options: LaunchOptions, keep_alive_s: float | None
) -> AsyncIterator[Runner]:
    """The runner of the model, which is loaded if necessary. Raises ApiError: the server is busy, the runner ended."""
    try:
        async with exchange.scheduler.use(model, options, keep_alive_s) as runner:
            yield runner
    except ServerBusy:
        raise ApiError(503, SERVER_BUSY) from None
    except RunnerKilled:
        raise ApiError(500, RUNNER_CRASHED) from None


def launch_options(
    exchange: Exchange,
    model: Model,
    num_ctx: int | None,
    shift: bool | None = None,
    others: tuple[tuple[str, object], ...] = (),
) -> LaunchOptions:
    """The options of the runner that the request needs. The context is at most the one the model was trained with."""
    wanted = exchange.behaviour.context_length if num_ctx is None else num_ctx
    minimum = _NUM_CTX_MIN_VISION if "vision" in model.capabilities else _NUM_CTX_MIN
    return LaunchOptions(max(minimum, min(wanted, model.family.context_length)), shift is not False, others)


@asynccontextmanager
async def use_slot(exchange: Exchange, runner: Runner, prompt: Prompt, timing: Timing) -> AsyncIterator[CachedPrompt]:
    """Waits for a slot, evaluates the prompt in it and holds it. Raises RunnerKilled.

    Yields the cached text, to which the caller appends the answer. The last token of a prompt is evaluated even if
    all are cached.
    """
    behaviour, record = exchange.behaviour, exchange.record
    waits_since = time.monotonic()
    async with runner.slots.take():
        timing.slot_ns = time.monotonic_ns()
        record.waited_s = time.monotonic() - waits_since
        record.prompt_tokens = prompt.tokens
        runner.raise_if_killed()
        # Without a pace nothing depends on what is cached.
        text = prompt.text if behaviour.prefill_tokens_per_s else ""
        capacity = max(runner.slots.taken, behaviour.num_parallel) + behaviour.cached_prompts
        with runner.cache.take(text, capacity) as (cached, shared):
            evaluation_s = 0.0
            if behaviour.prefill_tokens_per_s:
                record.cached_tokens = min(count_tokens(text[:shared]), prompt.tokens - 1)
                evaluation_s = (prompt.tokens - record.cached_tokens) / behaviour.prefill_tokens_per_s
            await runner.sleep(behaviour.first_byte_s + evaluation_s)
            cached.text = f"{text}{ANSWER_MARKER}"
            timing.first_token_ns = time.monotonic_ns()
            yield cached


def _cloud_error(state: str) -> ApiError:
    if state == "disabled":
        return ApiError(403, "ollama cloud is disabled: remote model is unavailable", always_native=True)
    return ApiError(401, "unauthorized", always_native=True, fields={"signin_url": _SIGNIN_URL})

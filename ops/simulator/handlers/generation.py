"""Answers a request to generate, on any surface: find the model, load it, pace the tokens, write the frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from http import HTTPStatus

from ops.simulator.control.behaviour import OVER_CAP_TOKENS
from ops.simulator.dialects.base import JSON, Dialect, Encoder, Refusal, Said, Timing
from ops.simulator.generation.events import Delta, Event, Finish
from ops.simulator.generation.generator import generate
from ops.simulator.generation.request import GenerationRequest, count_prompt_tokens
from ops.simulator.handlers.exchange import Exchange, Struck
from ops.simulator.models import names
from ops.simulator.models.library import Model

CRASH = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
BROKEN = "an error was encountered while running the model: unexpected EOF"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
_GUARD_FRAMES = 3


async def answer(exchange: Exchange, dialect: Dialect) -> None:
    """Reads the body, generates and writes. Raises Refusal before the first byte, Struck, ConnectionError."""
    request = dialect.read(exchange.body)
    exchange.record.model = request.model
    try:
        await _answer(exchange, dialect, request)
    except Refusal as refusal:
        if request.stream:
            refusal.headers = dialect.stream_headers
        raise


async def _answer(exchange: Exchange, dialect: Dialect, request: GenerationRequest) -> None:
    model = find_model(exchange, request.model, required=request.endpoint == "chat")
    _check_capabilities(request, model)
    refuse_if_struck(exchange)
    request = replace(request, num_ctx=max(4, min(request.num_ctx, model.family.context_length)))
    timing = Timing()
    if request.load_only and request.keep_alive_s == 0:
        exchange.library.touch(model, 0, request.num_ctx)
        return await _idle(exchange, dialect.encoder(request, timing), request, "unload")
    await load(exchange, model, request.keep_alive_s, request.num_ctx)
    timing.loaded = time.monotonic_ns()
    if request.load_only:
        return await _idle(exchange, dialect.encoder(request, timing), request, "load")
    if "no_usage" in exchange.faults:
        request = replace(request, include_usage=False)
    try:
        encoder = dialect.encoder(request, timing)
        events = _paced(exchange, request, model, timing)
        await (_stream if request.stream else _whole)(exchange, dialect, encoder, events)
    finally:
        exchange.library.touch(model, request.keep_alive_s, request.num_ctx)
    return None


def find_model(
    exchange: Exchange,
    spelling: str,
    *,
    required: bool = False,
    ignore_case: bool = True,
    missing: str = "model '{}' not found",
) -> Model:
    """The installed model a spelling means. Raises Refusal as Ollama does for names it does not have, names that
    are none, and names that would be sent to its cloud; `required` is how `/api/chat` treats an empty name."""
    if not spelling and required:
        raise Refusal(400, "model is required")
    try:
        base, source = names.split_source(spelling)
    except names.ConflictingSource:
        raise Refusal(400, "invalid model name") from None
    if source == "cloud":
        raise _cloud_refusal(exchange.behaviour.cloud)
    model = exchange.library.find(base, ignore_case=ignore_case)
    if model is None:
        raise Refusal(404, missing.format(spelling))
    return model


def refuse_if_struck(exchange: Exchange) -> None:
    """Raises the Refusal of a `status` fault, with Ollama's words where it has some."""
    fault = exchange.faults.get("status")
    if fault is not None:
        texts = {499: "request canceled", 500: CRASH, 503: BUSY}
        text = fault.message or texts.get(fault.status) or HTTPStatus(fault.status).phrase.lower()
        raise Refusal(fault.status, text)


async def load(exchange: Exchange, model: Model, keep_alive_s: float | None, num_ctx: int) -> None:
    """Brings the model into memory, one load at a time; another context length is a reload. Then evaluates the
    prompt, which takes `first_byte_s`."""
    async with exchange.loading:
        entry = next((e for e in exchange.library.in_memory() if e.model.name.key == model.name.key), None)
        if entry is None or entry.context_length != num_ctx:
            await asyncio.sleep(exchange.behaviour.load_s)
        exchange.library.touch(model, keep_alive_s or None, num_ctx)
    await asyncio.sleep(exchange.behaviour.first_byte_s)


async def _stream(exchange: Exchange, dialect: Dialect, encoder: Encoder, events: AsyncIterator[Event]) -> None:
    opened = False
    async for event in events:
        if isinstance(event, Delta) and not event.is_visible:
            continue
        if _due(exchange, "error", 0):
            return await _break(exchange, dialect, encoder, opened=opened)
        if _due(exchange, "repeat_guard", _GUARD_FRAMES):
            break
        if not opened:
            await exchange.stream(200, dialect.stream_type, dialect.stream_headers)
            opened = True
        for frame in encoder.finish(event) if isinstance(event, Finish) else encoder.piece(event):
            await exchange.frame(frame)
    if not opened:
        await exchange.stream(200, dialect.stream_type, dialect.stream_headers)
    return await exchange.end()


async def _whole(exchange: Exchange, dialect: Dialect, encoder: Encoder, events: AsyncIterator[Event]) -> None:
    if "error" in exchange.faults:
        raise Refusal(500, CRASH)
    said, finish = Said(), None
    async for event in events:
        if isinstance(event, Finish):
            finish = None if "repeat_guard" in exchange.faults else event
            said.add(event.tail)
        else:
            said.add(event)
    await exchange.send(200, dialect.whole_type, encoder.whole(said, finish))


async def _break(exchange: Exchange, dialect: Dialect, encoder: Encoder, *, opened: bool) -> None:
    if not opened:
        await exchange.stream(500, JSON)
        await exchange.frame(dialect.refusal(Refusal(500, CRASH))[1])
    else:
        for frame in encoder.broken(BROKEN):
            await exchange.frame(frame)
    await exchange.end()
    raise Struck("error")


async def _idle(exchange: Exchange, encoder: Encoder, request: GenerationRequest, reason: str) -> None:
    content_type, frames = encoder.idle(reason)
    if not request.stream or len(frames) == 1:
        return await exchange.send(200, content_type, frames[0])
    await exchange.stream(200, content_type)
    for frame in frames:
        await exchange.frame(frame)
    return await exchange.end()


async def _paced(exchange: Exchange, request: GenerationRequest, model: Model, timing: Timing) -> AsyncIterator[Event]:
    behaviour, record = exchange.behaviour, exchange.record
    limit, answer_tokens = request.output_tokens_max, behaviour.answer_tokens
    if "over_cap" in exchange.faults:
        limit += OVER_CAP_TOKENS
        answer_tokens = limit + 1
    on_done = behaviour.tool_calls == "done_frame" or (
        behaviour.tool_calls == "by_model" and model.has_tool_call_on_done and request.endpoint == "chat"
    )
    record.prompt_tokens = count_prompt_tokens(request)
    timing.first_token = time.monotonic_ns()
    for event in generate(
        request,
        model,
        output_tokens_max=limit,
        seed=behaviour.seed,
        answer_tokens=answer_tokens,
        tool_call_on_done=on_done,
    ):
        if isinstance(event, Finish):
            yield replace(event, prompt_tokens=0, output_tokens=0) if "no_usage" in exchange.faults else event
            return
        record.output_tokens += event.generated_tokens
        if behaviour.tokens_per_s:
            due_s = timing.first_token / 1e9 + record.output_tokens / behaviour.tokens_per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        elif event.is_visible:
            # Without this a fast answer would never let the event loop notice that the client has gone.
            await asyncio.sleep(0)
        yield event


def _due(exchange: Exchange, kind: str, default_frames: int) -> bool:
    fault = next((fault for fault in exchange.faults.values() if fault.kind == kind), None)
    if fault is None:
        return False
    return exchange.record.frames >= (default_frames if fault.after_frames is None else fault.after_frames)


def _check_capabilities(request: GenerationRequest, model: Model) -> None:
    missing = ""
    if "completion" not in model.capabilities:
        missing = request.endpoint
    elif request.think and not model.thinks:
        missing = "thinking"
    elif request.tools and "tools" not in model.capabilities:
        missing = "tools"
    if missing:
        raise Refusal(400, f'"{request.model}" does not support {missing}')


def _cloud_refusal(state: str) -> Refusal:
    if state == "disabled":
        return Refusal(403, "ollama cloud is disabled: remote model is unavailable", flat=True)
    refusal = Refusal(401, "unauthorized", flat=True)
    refusal.extra["signin_url"] = "https://ollama.com/connect?name=gpu-host-1&key=c3NoLWVkMjU1MTkgQUFBQQ"
    return refusal

"""Handles a request to generate on any surface: finds and loads the model, paces the tokens and writes the frames."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from ops.simulator.control.behaviour import OVER_CAP_TOKENS
from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Completion, Dialect, Encoder, Timing
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.media_types import JSON, JSON_UTF8
from ops.simulator.dialects.parameters import read_options
from ops.simulator.generation.events import Delta, Event, Finish
from ops.simulator.generation.generator import generate
from ops.simulator.generation.prompt import ContextExceeded, ContextNotShiftable, Prompt, fit_prompt, render
from ops.simulator.generation.request import VOCABULARY_SIZE, GenerationRequest
from ops.simulator.handlers.exchange import Exchange, FaultInjected
from ops.simulator.handlers.faults import (
    RUNNER_CRASHED,
    STREAM_BROKEN,
    is_due,
    raise_injected_crash,
    raise_injected_status,
)
from ops.simulator.handlers.model_access import find_model, launch_options, use_model, use_slot
from ops.simulator.models.library import Model
from ops.simulator.scheduling.prompt_cache import CachedPrompt
from ops.simulator.scheduling.runner import Runner, RunnerKilled

CONTEXT_NOT_SHIFTABLE = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
_NO_VISION = "Multimodal data provided, but model does not support multimodal requests."
_REPEAT_GUARD_FRAMES = 3


async def answer(exchange: Exchange, dialect: Dialect) -> None:
    """Reads the body, generates and writes the answer.

    Raises ApiError before the first byte, FaultInjected, ConnectionError.
    """
    request = dialect.read(exchange.body)
    exchange.record.model = request.model
    try:
        await _answer(exchange, dialect, request)
    except ApiError as error:
        if request.stream:
            error.headers = dialect.stream_headers
        raise


async def _answer(exchange: Exchange, dialect: Dialect, request: GenerationRequest) -> None:
    model = find_model(exchange, request.model, required=request.endpoint == "chat")
    timing = Timing()
    if request.load_only and request.keep_alive_s == 0:
        raise_injected_status(exchange)
        exchange.scheduler.unload(model)
        return await _send_load(exchange, dialect.encoder(request, timing), request, "unload")
    _check_capabilities(request, model)
    raise_injected_status(exchange)
    request = _with_parameters(request, model)
    options = launch_options(exchange, model, request.num_ctx, request.shift, request.runner_options)
    async with use_model(exchange, model, options, request.keep_alive_s) as runner:
        timing.loaded_ns = time.monotonic_ns()
        if request.load_only:
            return await _send_load(exchange, dialect.encoder(request, timing), request, "load")
        if "no_usage" in exchange.faults:
            request = replace(request, include_usage=False)
        _check_content(request, model)
        if request.debug_render_only:
            document = dialect.encoder(request, timing).encode_debug(render(request).text)
            return await exchange.send(200, JSON_UTF8, document)
        prompt = _fit(request, options.num_ctx)
        try:
            async with use_slot(exchange, runner, prompt, timing) as cached:
                events = _generate_paced(exchange, request, runner, prompt, cached, timing)
                send = _stream if request.stream else _send_document
                await send(exchange, dialect, dialect.encoder(request, timing), events)
        except RunnerKilled:
            if exchange.response is None and not request.stream:
                raise ApiError(500, STREAM_BROKEN if timing.first_token_ns else RUNNER_CRASHED) from None
            await _fail(exchange, dialect, dialect.encoder(request, timing))
    return None


def _with_parameters(request: GenerationRequest, model: Model) -> GenerationRequest:
    """The request with the parameters of the model's Modelfile where it sets none itself."""
    own = read_options(model.parameters)
    unset = {name: value for name, value in own.items() if getattr(request, name) in (None, ())}
    return replace(request, **unset)


def _fit(request: GenerationRequest, num_ctx: int) -> Prompt:
    try:
        return fit_prompt(request, num_ctx)
    except ContextExceeded as error:
        sizes = f"request ({error.prompt_tokens} tokens) exceeds the available context size ({num_ctx} tokens)"
        counts = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": num_ctx}
        message = f"{sizes}, try increasing it"
        raise ApiError(400, _llama_server_error(400, message, "exceed_context_size_error", **counts)) from None
    except ContextNotShiftable:
        raise ApiError(400, CONTEXT_NOT_SHIFTABLE) from None


def _check_capabilities(request: GenerationRequest, model: Model) -> None:
    if "completion" not in model.capabilities:
        raise ApiError(400, f'"{request.model}" does not support {request.endpoint}')
    if request.think and not model.thinks and not request.relaxes_thinking:
        raise ApiError(400, f'"{request.model}" does not support thinking')
    wanted = {"tools": bool(request.tools), "insert": request.has_suffix}
    missing = [name for name, is_wanted in wanted.items() if is_wanted and name not in model.capabilities]
    if missing:
        raise ApiError(400, f"{model.name.full} does not support {missing[0]}")


def _check_content(request: GenerationRequest, model: Model) -> None:
    """Raises ApiError for what Ollama finds only once the model is loaded."""
    if request.template_error:
        raise ApiError(500, request.template_error)
    if any(not 0 <= token < VOCABULARY_SIZE for token in request.context):
        raise ApiError(500, f"detokenize error: {_llama_server_error(400, 'Invalid token', 'invalid_request_error')}")
    if "vision" not in model.capabilities and any(turn.images for turn in request.turns):
        raise ApiError(400, _llama_server_error(400, _NO_VISION, "invalid_request_error"))
    if request.format and request.format != "json" and not isinstance(request.format, dict):
        given = json.dumps(json.dumps(request.format, ensure_ascii=False), ensure_ascii=False)
        raise ApiError(500, f'invalid format: {given}; expected "json" or a valid JSON Schema object')


def _llama_server_error(code: int, message: str, kind: str, **details: int) -> str:
    """The body of an error of llama-server, which Ollama passes on as a string."""
    return gojson.dump({"error": {"code": code, "message": message, "type": kind, **details}}).decode()


async def _generate_paced(
    exchange: Exchange,
    request: GenerationRequest,
    runner: Runner,
    prompt: Prompt,
    cached: CachedPrompt,
    timing: Timing,
) -> AsyncIterator[Event]:
    behaviour, record, model = exchange.behaviour, exchange.record, runner.model
    output_tokens_max, answer_tokens = _output_tokens_max(request, runner, prompt), behaviour.answer_tokens
    if "over_cap" in exchange.faults:
        output_tokens_max += OVER_CAP_TOKENS
        answer_tokens = output_tokens_max + 1
    by_model = model.has_tool_call_on_done and request.endpoint == "chat"
    for event in generate(
        request,
        model,
        prompt_tokens=prompt.tokens,
        output_tokens_max=output_tokens_max,
        seed=behaviour.seed,
        answer_tokens=answer_tokens,
        tool_call_on_done={"by_model": by_model, "own_frame": False, "done_frame": True}[behaviour.tool_calls],
    ):
        if isinstance(event, Finish):
            yield replace(event, prompt_tokens=0, output_tokens=0) if "no_usage" in exchange.faults else event
            return
        record.output_tokens += event.generated_tokens
        if behaviour.prefill_tokens_per_s:
            cached.text += event.content
        if behaviour.tokens_per_s:
            due_s = timing.first_token_ns / 1e9 + record.output_tokens / behaviour.tokens_per_s
            await runner.sleep(due_s - time.monotonic())
        elif event.is_visible:
            # Without this a fast answer would not let the event loop notice that the client has disconnected.
            await runner.sleep(0)
        yield event


def _output_tokens_max(request: GenerationRequest, runner: Runner, prompt: Prompt) -> int:
    """The output limit in tokens. A context that cannot be shifted ends the answer when it is full."""
    limit = request.output_tokens_max(runner.options.num_ctx)
    if runner.options.shift and runner.model.family.shifts_context:
        return limit
    # llama-server rounds the context up to a multiple of 256.
    context = -(-runner.options.num_ctx // 256) * 256
    return min(limit, max(1, context - prompt.tokens))


async def _stream(exchange: Exchange, dialect: Dialect, encoder: Encoder, events: AsyncIterator[Event]) -> None:
    started = False
    async for event in events:
        if isinstance(event, Delta) and not event.is_visible:
            continue
        if is_due(exchange, "error", 0):
            return await _fail(exchange, dialect, encoder)
        if is_due(exchange, "repeat_guard", _REPEAT_GUARD_FRAMES):
            break
        if not started:
            await exchange.stream(200, dialect.stream_type, dialect.stream_headers)
            started = True
        for frame in encoder.encode_finish(event) if isinstance(event, Finish) else encoder.encode_delta(event):
            await exchange.frame(frame)
    if not started:
        await exchange.stream(200, dialect.stream_type, dialect.stream_headers)
    return await exchange.end()


async def _send_document(exchange: Exchange, dialect: Dialect, encoder: Encoder, events: AsyncIterator[Event]) -> None:
    raise_injected_crash(exchange)
    completion, finish = Completion(), None
    async for event in events:
        if isinstance(event, Finish):
            finish = None if "repeat_guard" in exchange.faults else event
            completion.add(event.tail)
        else:
            completion.add(event)
    await exchange.send(200, dialect.document_type, encoder.encode_document(completion, finish))


async def _fail(exchange: Exchange, dialect: Dialect, encoder: Encoder) -> None:
    """Ends a stream as Ollama does when its runner has ended. Raises FaultInjected."""
    if exchange.response is None:
        await exchange.stream(500, JSON)
        await exchange.frame(dialect.encode_error(ApiError(500, RUNNER_CRASHED))[1])
    else:
        for frame in encoder.encode_failure(STREAM_BROKEN):
            await exchange.frame(frame)
    await exchange.end()
    raise FaultInjected("error")


async def _send_load(exchange: Exchange, encoder: Encoder, request: GenerationRequest, reason: str) -> None:
    content_type, frames = encoder.encode_load(reason)
    if not request.stream or content_type == JSON_UTF8:
        return await exchange.send(200, content_type, frames[0])
    await exchange.stream(200, content_type)
    for frame in frames:
        await exchange.frame(frame)
    return await exchange.end()

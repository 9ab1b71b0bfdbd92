"""Generates the steps of an answer.

Each dialect reads a body into a `GenerationRequest`; `generate` turns it into events; the dialect's encoder turns the
events into frames. One step is one generated token, but not every step shows something: end marks and tags never do,
a token that may begin a stop string or that ends within a character waits for the next one, and a tool call consists
of many tokens that appear at once.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any, Literal

from ops.simulator.generation import text
from ops.simulator.generation.events import Delta, Event, Finish, FinishReason, ToolCall
from ops.simulator.generation.request import GenerationRequest, Tool, Turn
from ops.simulator.models.library import Model

REPEATS_MAX = 30

_LENGTH_REQUEST = re.compile(r"\b(\d{1,6})[ -](?:words?|tokens?)\b", re.IGNORECASE)
_REPEAT_REQUEST = re.compile(r"\brepeat ['\"]?(\w+)['\"]? forever\b", re.IGNORECASE)
# A model continues a prompt that repeats one word.
_REPETITION = re.compile(r"\b(\w+)(?: \1){15,} ?$")
_ENDLESS_REQUEST = re.compile(r"\bforever\b", re.IGNORECASE)
# The share of frames that hold two tokens, as frames of a busy server do.
_TWO_TOKENS_PROBABILITY = 0.05

_NO_TURN = Turn("user", "")

Channel = Literal["content", "thinking", "hidden", "call"]
_Token = tuple[Channel, str, ToolCall | None]


def generate(
    request: GenerationRequest,
    model: Model,
    *,
    prompt_tokens: int,
    output_tokens_max: int,
    seed: int = 0,
    answer_tokens: int | None = None,
    tool_call_on_done: bool = False,
) -> Iterator[Event]:
    """The steps of the answer to a prompt of `prompt_tokens`, in at most `output_tokens_max` tokens.

    `answer_tokens` is the length of the answer with its end mark and without its thinking; None derives it from the
    prompt. The last event is a Finish, unless the repeat guard stops the answer: after more than 30 equal tokens in
    succession Ollama ends the stream without a last frame. Equal requests get equal answers; `seed` and the request's
    own seed vary them.
    """
    prompt = _last_turn(request).content
    rng = text.seeded_random(seed, request.seed, model.name.key, *(turn.content for turn in request.turns))
    buffer = _OutputBuffer(request.stop, text.seeded_random(seed, request.seed, prompt))
    thinks = model.thinks and request.think is not False
    thinking_tokens, generated, repeats = 0, 0, 0
    last, tail = "", None
    reason: FinishReason = "stop"
    for channel, token, call in _tokens(request, prompt, rng, thinks=thinks, answer_tokens=answer_tokens):
        if generated == output_tokens_max:
            reason = "length"
            break
        generated += 1
        thinking_tokens += channel == "thinking"
        repeats = repeats + 1 if channel == "content" and token.strip() == last else 0
        if repeats > REPEATS_MAX:
            yield Delta(generated_tokens=1)
            return
        last = token.strip() if channel == "content" else ""
        if call is not None and tool_call_on_done:
            tail = Delta(tool_call=call)
            yield Delta(generated_tokens=1)
            continue
        yield buffer.add(channel, token, call)
        if buffer.stopped:
            break
    rest = buffer.flush()
    if rest.is_visible:
        yield rest
    if request.format and thinks and request.endpoint == "chat":
        # Ollama generates twice here and reports the second pass only, whose prompt includes the thinking.
        yield Finish(reason, prompt_tokens + thinking_tokens, max(generated - thinking_tokens, 0), tail)
        return
    yield Finish(reason, prompt_tokens, generated, tail)


class _OutputBuffer:
    """Decides when generated text becomes visible, and truncates it at a stop string."""

    def __init__(self, stop: tuple[str, ...], rng: random.Random) -> None:
        self._stop = stop
        self._rng = rng
        self._channel: Channel = "content"
        self._text = ""
        self._tokens: tuple[str, ...] = ()
        self.stopped = False

    def add(self, channel: Channel, token: str, call: ToolCall | None) -> Delta:
        """The step of one more token."""
        if call is not None:
            return Delta(generated_tokens=1, tool_call=call)
        if channel in ("hidden", "call"):
            release = self._text and not self._may_begin_stop()
            return self._release(generated_tokens=1) if release else Delta(generated_tokens=1)
        self._channel = channel
        self._text += token
        self._tokens += (token,)
        if channel == "content":
            self._truncate_at_stop()
        if not self.stopped and self._waits(token):
            return Delta(generated_tokens=1)
        return self._release(generated_tokens=1)

    def flush(self) -> Delta:
        """The text that is still buffered."""
        return self._release(generated_tokens=0)

    def _release(self, generated_tokens: int) -> Delta:
        released, tokens = self._text, self._tokens
        self._text, self._tokens = "", ()
        if self._channel == "thinking":
            return Delta(generated_tokens=generated_tokens, thinking=released, visible_tokens=tokens)
        return Delta(generated_tokens=generated_tokens, content=released, visible_tokens=tokens)

    def _waits(self, token: str) -> bool:
        return not token or self._may_begin_stop() or self._rng.random() < _TWO_TOKENS_PROBABILITY

    def _truncate_at_stop(self) -> None:
        positions = [at for at in (self._text.find(stop) for stop in self._stop if stop) if at >= 0]
        if positions:
            self._text = self._text[: min(positions)]
            self.stopped = True

    def _may_begin_stop(self) -> bool:
        return self._channel == "content" and any(
            self._text.endswith(stop[:length]) for stop in self._stop for length in range(1, len(stop))
        )


def _tokens(
    request: GenerationRequest, prompt: str, rng: random.Random, *, thinks: bool, answer_tokens: int | None
) -> Iterator[_Token]:
    if thinks:
        yield "hidden", "<think>", None
        for token in text.tokenise(text.thoughts(prompt, rng)):
            yield "thinking", token, None
        yield "hidden", "</think>", None
    tool = _formatted_tool(request) or _named_tool(request, prompt)
    if tool is not None:
        yield from _call_tokens(tool, _given_arguments(prompt), rng)
    else:
        for token in _content_tokens(request, prompt, rng, answer_tokens):
            yield "content", token, None
    yield "hidden", "<end>", None


def _last_turn(request: GenerationRequest) -> Turn:
    """The last turn with text; one of the role `system` only if no other has any."""
    with_text = [turn for turn in request.turns if turn.content]
    spoken = [turn for turn in with_text if turn.role != "system"]
    return (spoken or with_text or [_NO_TURN])[-1]


def _formatted_tool(request: GenerationRequest) -> Tool | None:
    """The tool whose call the format forces: the schema has its name as a constant."""
    properties = request.format.get("properties") if isinstance(request.format, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    constant = name.get("const") if isinstance(name, dict) else None
    return next((tool for tool in request.tools if tool.name and tool.name == constant), None)


def _named_tool(request: GenerationRequest, prompt: str) -> Tool | None:
    """The first tool whose name occurs in the user's message, which must be the last one.

    Coding agents append their own instructions to it as a message of the role `system`.
    """
    if _last_turn(request).role != "user":
        return None
    words = prompt.lower().replace("_", " ")
    return next((t for t in request.tools if t.name and t.name.lower().replace("_", " ") in words), None)


def _given_arguments(prompt: str) -> dict[str, Any] | None:
    """The first JSON object in the prompt, which are the arguments of the call; None if it has none."""
    start = prompt.find("{")
    if start < 0:
        return None
    try:
        arguments: dict[str, Any] = json.JSONDecoder().raw_decode(prompt, start)[0]
    except (ValueError, RecursionError):
        return None
    return arguments


def _call_tokens(tool: Tool, given: dict[str, Any] | None, rng: random.Random) -> Iterator[_Token]:
    arguments = text.example_value(tool.parameters or {"type": "object"}, rng) if given is None else given
    call = ToolCall(f"call_{rng.getrandbits(32):08x}", tool.name, arguments)
    for token in text.tokenise(json.dumps({"name": tool.name, "arguments": arguments}, ensure_ascii=False)):
        yield "call", token, None
    yield "call", "</tool_call>", call


def _content_tokens(
    request: GenerationRequest, prompt: str, rng: random.Random, answer_tokens: int | None
) -> Iterator[str]:
    repeated = _REPEAT_REQUEST.search(prompt) or _REPETITION.search(prompt)
    length = _LENGTH_REQUEST.search(prompt)
    if request.format:
        yield from text.tokenise(json.dumps(text.example_value(request.format, rng), ensure_ascii=False))
    elif repeated:
        yield from chain.from_iterable(text.tokenise(f" {repeated[1]}") for _ in repeat(None))
    elif answer_tokens is not None or length:
        count = answer_tokens if answer_tokens is not None else int(length[1]) if length else 1
        endless = chain.from_iterable(map(text.tokenise, text.sentences(prompt, rng)))
        yield from islice(endless, count - 1)
    else:
        sentences = None if _ENDLESS_REQUEST.search(prompt) else rng.randint(3, 6)
        for sentence in islice(text.sentences(prompt, rng), sentences):
            yield from text.tokenise(sentence)

"""From a request that is already understood to the steps of its answer. Pure: no sockets, no clock, no JSON.

Every surface reads its own dialect into an `Ask`; `generate` turns that into events; the surface's encoder turns
the events into frames. One step is one generated token, but not every step shows something: end marks and tags
never do, a token that may begin a stop string or ends in the middle of a character waits for the next, and a tool
call is many tokens that appear at once.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Any, Literal

from ops.simulator.generation import text
from ops.simulator.models.library import Model

NUM_CTX = 4096
IMAGE_TOKENS = 256
TURN_TOKENS = 4
REPEATS_MAX = 30

_LENGTH_WISH = re.compile(r"\b(\d{1,6})[ -](?:words?|tokens?)\b", re.IGNORECASE)
_REPEAT_WISH = re.compile(r"\brepeat ['\"]?(\w+)['\"]? forever\b", re.IGNORECASE)
_ENDLESS_WISH = re.compile(r"\bforever\b", re.IGNORECASE)

Surface = Literal["chat", "generate"]
Reason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation, reduced to what a model would see of it."""

    role: str
    content: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is its JSON schema."""

    name: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to generate, whatever its surface.

    `model` is the caller's spelling. `num_predict` <= 0 is no limit. `think` None is the model's own habit.
    `top_logprobs` None is no log probabilities. `format` is "json", a schema, or None. `keep_alive_s` None is the
    default. `loads_only` asks for no answer: the model is loaded, or unloaded when `keep_alive_s` is 0.
    """

    surface: Surface
    model: str
    turns: tuple[Turn, ...]
    stream: bool
    num_predict: int = -1
    num_ctx: int = NUM_CTX
    stop: tuple[str, ...] = ()
    seed: int = 0
    think: bool | None = None
    tools: tuple[Tool, ...] = ()
    format: Any = None
    top_logprobs: int | None = None
    keep_alive_s: float | None = None
    loads_only: bool = False
    raw: bool = False
    include_usage: bool = False
    context_tokens: int = 0
    prompt_bytes: int = 0
    echo: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call of a function."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """One step: `generated` tokens were produced, and this much became visible. `tokens` are those shown."""

    generated: int = 0
    content: str = ""
    thinking: str = ""
    call: ToolCall | None = None
    tokens: tuple[str, ...] = ()

    @property
    def visible(self) -> bool:
        """Whether it makes a frame."""
        return bool(self.content or self.thinking or self.call)


@dataclass(frozen=True, slots=True)
class Finish:
    """The regular end with the counts that are reported; `tail` is shown on the last frame itself."""

    reason: Reason
    prompt_tokens: int
    output_tokens: int
    tail: Piece | None = None


Event = Piece | Finish
Channel = Literal["content", "thinking", "hidden", "call"]
_Token = tuple[Channel, str, ToolCall | None]


def output_limit(ask: Ask) -> int:
    """How many tokens the answer may have: `num_predict`, or ten contexts when that is no limit or more."""
    ceiling = 10 * max(ask.num_ctx, 4)
    return ask.num_predict if 0 < ask.num_predict < ceiling else ceiling


def count_prompt(ask: Ask) -> int:
    """Tokens of the prompt: its text, four per turn (none when raw), 256 per image, the tools; at most a context."""
    turns = sum(text.count_tokens(turn.content) + IMAGE_TOKENS * turn.images for turn in ask.turns)
    frame = 0 if ask.raw else TURN_TOKENS * len(ask.turns)
    tools = sum(text.count_tokens(tool.name + json.dumps(tool.parameters)) for tool in ask.tools)
    return max(1, min(turns + frame + tools + ask.context_tokens, ask.num_ctx))


def generate(
    ask: Ask,
    model: Model,
    *,
    limit: int,
    seed: int = 0,
    answer_tokens: int | None = None,
    call_on_done: bool = False,
) -> Iterator[Event]:
    """The steps of the answer, at most `limit` tokens. Ends with a Finish, unless the repeat guard stopped it:
    after more than 30 equal pieces in a row Ollama ends the stream with no last frame.

    The same request gets the same answer; `seed` and the request's own seed vary it.
    """
    prompt = next((turn.content for turn in reversed(ask.turns) if turn.content), "")
    chance = text.dice(seed, ask.seed, model.name.key, *(turn.content for turn in ask.turns))
    rhythm = text.dice(seed, ask.seed, prompt)
    thinks = model.thinks and ask.think is not False
    shown = _Shown(ask.stop, rhythm)
    prompt_tokens, thinking_tokens, produced, repeats = count_prompt(ask), 0, 0, 0
    last, tail = "", None
    reason: Reason = "stop"
    for channel, token, call in _plan(ask, prompt, chance, thinks=thinks, answer_tokens=answer_tokens):
        if produced == limit:
            reason = "length"
            break
        produced += 1
        thinking_tokens += channel == "thinking"
        repeats = repeats + 1 if channel == "content" and token.strip() == last else 0
        if repeats > REPEATS_MAX:
            yield Piece(generated=1)
            return
        last = token.strip() if channel == "content" else ""
        if call is not None and call_on_done:
            tail = Piece(call=call)
            yield Piece(generated=1)
            continue
        yield shown.add(channel, token, call)
        if shown.stopped:
            break
    rest = shown.flush()
    if rest.visible:
        yield rest
    if ask.format and thinks and ask.surface == "chat":
        # Ollama generates twice here and reports only the second pass, whose prompt holds the thinking.
        yield Finish(reason, prompt_tokens + thinking_tokens, max(produced - thinking_tokens, 0), tail)
        return
    yield Finish(reason, prompt_tokens, produced, tail)


class _Shown:
    """Decides when generated text becomes visible, and cuts it at a stop string."""

    def __init__(self, stop: tuple[str, ...], rhythm: random.Random) -> None:
        self._stop = stop
        self._rhythm = rhythm
        self._channel: Channel = "content"
        self._text = ""
        self._tokens: tuple[str, ...] = ()
        self.stopped = False

    def add(self, channel: Channel, token: str, call: ToolCall | None) -> Piece:
        """The step of one more token."""
        if call is not None:
            return Piece(generated=1, call=call)
        if channel in ("hidden", "call"):
            return self._release(generated=1) if self._text and not self._waits() else Piece(generated=1)
        self._channel = channel
        self._text += token
        self._tokens += (token,)
        if channel == "content":
            self._cut()
        # Now and then two tokens arrive in one frame, as they do when the server is busy.
        if not self.stopped and (not token or self._waits() or self._rhythm.random() < 0.05):
            return Piece(generated=1)
        return self._release(generated=1)

    def flush(self) -> Piece:
        """What was still held back."""
        return self._release(generated=0)

    def _release(self, generated: int) -> Piece:
        said, tokens = self._text, self._tokens
        self._text, self._tokens = "", ()
        if self._channel == "thinking":
            return Piece(generated=generated, thinking=said, tokens=tokens)
        return Piece(generated=generated, content=said, tokens=tokens)

    def _cut(self) -> None:
        found = [at for at in (self._text.find(stop) for stop in self._stop if stop) if at >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True

    def _waits(self) -> bool:
        said = self._text
        return self._channel == "content" and any(
            said.endswith(stop[:length]) for stop in self._stop for length in range(1, len(stop))
        )


def _plan(ask: Ask, prompt: str, chance: random.Random, *, thinks: bool, answer_tokens: int | None) -> Iterator[_Token]:
    if thinks:
        yield "hidden", "<think>", None
        for token in text.tokenise(text.thoughts(prompt, chance)):
            yield "thinking", token, None
        yield "hidden", "</think>", None
    tool = _wanted_tool(ask, prompt)
    if tool is not None:
        yield from _call(tool, chance)
    else:
        for token in _answer(ask, prompt, chance, answer_tokens):
            yield "content", token, None
    yield "hidden", "<end>", None


def _wanted_tool(ask: Ask, prompt: str) -> Tool | None:
    if not ask.turns or ask.turns[-1].role != "user":
        return None
    said = prompt.lower()
    return next((t for t in ask.tools if t.name and t.name.lower().replace("_", " ") in said.replace("_", " ")), None)


def _call(tool: Tool, chance: random.Random) -> Iterator[_Token]:
    arguments = text.example(tool.parameters or {"type": "object"}, chance)
    call = ToolCall(f"call_{chance.getrandbits(32):08x}", tool.name, arguments)
    for token in text.tokenise(json.dumps({"name": tool.name, "arguments": arguments}, ensure_ascii=False)):
        yield "call", token, None
    yield "call", "</tool_call>", call


def _answer(ask: Ask, prompt: str, chance: random.Random, answer_tokens: int | None) -> Iterator[str]:
    repeated = _REPEAT_WISH.search(prompt)
    wished = _LENGTH_WISH.search(prompt)
    if ask.format:
        yield from text.tokenise(json.dumps(text.example(ask.format, chance), ensure_ascii=False))
    elif repeated:
        yield from chain.from_iterable(text.tokenise(f" {repeated[1]}") for _ in repeat(None))
    elif answer_tokens is not None or wished:
        length = answer_tokens if answer_tokens is not None else int(wished[1]) if wished else 1
        endless = chain.from_iterable(map(text.tokenise, text.sentences(prompt, chance)))
        yield from islice(endless, length - 1)
    else:
        count = None if _ENDLESS_WISH.search(prompt) else chance.randint(3, 6)
        for sentence in islice(text.sentences(prompt, chance), count):
            yield from text.tokenise(sentence)

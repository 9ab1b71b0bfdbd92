"""Builds generation requests and runs them."""

from typing import Any

from ops.simulator.generation.events import Delta, Event, Finish
from ops.simulator.generation.generator import generate
from ops.simulator.generation.prompt import render
from ops.simulator.generation.request import GenerationRequest, Turn
from ops.simulator.models.library import Library


def request(prompt: str = "Say hello", **fields: Any) -> GenerationRequest:
    defaults = {"endpoint": "chat", "model": "m", "turns": (Turn("user", prompt),), "stream": True}
    return GenerationRequest(**{**defaults, **fields})


def run(
    generation_request: GenerationRequest, model: str = "llama3.2", **options: Any
) -> tuple[list[Delta], Finish | None]:
    """The deltas of the answer and its finish, if there is one."""
    limit = generation_request.output_tokens_max(generation_request.num_ctx or 4096)
    tokens = render(generation_request).tokens
    installed = Library(lambda: 0.0).add(model)
    steps = generate(generation_request, installed, prompt_tokens=tokens, output_tokens_max=limit, **options)
    events: list[Event] = list(steps)
    deltas = [event for event in events if isinstance(event, Delta)]
    return deltas, next((event for event in events if isinstance(event, Finish)), None)


def content(deltas: list[Delta]) -> str:
    return "".join(delta.content for delta in deltas)

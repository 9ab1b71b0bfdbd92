"""The official clients as their users make them: the three environment lines that `create-key` prints, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anthropic
import ollama
import openai

from tests.e2e.stack import Stack


@dataclass
class Clients:
    """One of each with the same key. `ids` are those of the answers that the Ollama client got, which hides them."""

    openai: openai.OpenAI
    anthropic: anthropic.Anthropic
    ollama: Any
    ids: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, stack: Stack, key: str, **options: Any) -> Clients:
        """`options` go to the clients that retry by themselves."""
        ids: list[str] = []

        def note(response: Any) -> None:
            ids.append(response.headers["x-request-id"])

        return cls(
            openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, **options),
            anthropic.Anthropic(base_url=stack.url, api_key=key, **options),
            ollama.Client(host=stack.url, headers={"Authorization": f"Bearer {key}"}, event_hooks={"response": [note]}),
            ids,
        )

"""The official clients, configured by nothing but the base URLs and the key that `create-key` prints.

The tests import the clients where they use them. They take 3 s of CPU time, which otherwise each worker of pytest-xdist
would spend to collect the tests. tests/conftest.py lets one worker run all files that use them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e.stack import Stack

if TYPE_CHECKING:
    import anthropic
    import openai


@dataclass
class Clients:
    """One client of each kind, with the same key.

    `ids` are the request ids of the answers to the Ollama client, which does not expose headers.
    """

    openai: openai.OpenAI
    anthropic: anthropic.Anthropic
    ollama: Any
    ids: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, stack: Stack, key: str, **options: Any) -> Clients:
        """Clients of `stack`. `options` go to the OpenAI and the Anthropic client, which retry by default."""
        import anthropic
        import ollama
        import openai

        ids: list[str] = []

        def note(response: Any) -> None:
            ids.append(response.headers["x-request-id"])

        return cls(
            openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, **options),
            anthropic.Anthropic(base_url=stack.url, api_key=key, **options),
            ollama.Client(host=stack.url, headers={"Authorization": f"Bearer {key}"}, event_hooks={"response": [note]}),
            ids,
        )

"""Which part of a prompt a loaded model has already evaluated.

Each slot of llama-server retains the last prompt that it evaluated, with the answer. A request goes to the free slot
that shares the longest prefix with its prompt, provided that the prefix is at least a tenth of the prompt; otherwise it
goes to the least recently used slot. llama-server also saves the prompts of reused slots in main memory
(`--cache-ram`, 8 GiB by default, which Ollama does not change) and restores them, which has the effect of more slots.
Source: `get_available_slot` in llama.cpp's server, with its default of `--slot-prompt-similarity 0.10`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SIMILARITY_MIN = 0.1


@dataclass(slots=True, eq=False)
class CachedPrompt:
    """A text that was evaluated and is retained."""

    text: str = ""


@dataclass
class PromptCache:
    """The retained prompts that no request uses, least recently used first, and the number of used ones."""

    free: list[CachedPrompt] = field(default_factory=list)
    used: int = 0

    @contextmanager
    def take(self, prompt: str, capacity: int) -> Iterator[tuple[CachedPrompt, int]]:
        """The retained prompt to extend, and how many of its characters `prompt` shares.

        `capacity` is the number of prompts that are retained, at least one per running request. The caller stores the
        text that it evaluates in the yielded object.
        """
        del self.free[: max(0, len(self.free) + self.used - capacity)]
        cached, shared = self._most_similar(prompt)
        if cached is None:
            is_full = self.free and len(self.free) + self.used >= capacity
            cached = self.free[0] if is_full else CachedPrompt()
        self.free = [other for other in self.free if other is not cached]
        self.used += 1
        try:
            yield cached, shared
        finally:
            self.used -= 1
            self.free.append(cached)

    def _most_similar(self, prompt: str) -> tuple[CachedPrompt | None, int]:
        candidates = ((cached, shared_characters(cached.text, prompt)) for cached in self.free)
        cached, shared = max(candidates, key=lambda candidate: candidate[1], default=(None, 0))
        return (cached, shared) if shared and shared >= SIMILARITY_MIN * len(prompt) else (None, 0)


def shared_characters(first: str, second: str) -> int:
    """The length of the longest common prefix."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

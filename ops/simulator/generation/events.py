"""The steps of an answer, as the generator yields them and the encoders write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a function."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """One step: how many tokens were generated, and what became visible. `visible_tokens` are the text's tokens."""

    generated_tokens: int = 0
    content: str = ""
    thinking: str = ""
    tool_call: ToolCall | None = None
    visible_tokens: tuple[str, ...] = ()

    @property
    def is_visible(self) -> bool:
        """Whether the step makes a frame."""
        return bool(self.content or self.thinking or self.tool_call)


@dataclass(frozen=True, slots=True)
class Finish:
    """The regular end, with the token counts that are reported. `tail` is shown on the last frame itself."""

    reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    tail: Delta | None = None


Event = Delta | Finish

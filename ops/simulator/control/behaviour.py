"""How a simulated Ollama behaves: its pace, and the ways in which it fails.

A fault is a kind and a place. The place counts frames, that is flushed writes of the body; in a whole JSON answer
every place after the headers is the middle of the document.

| kind | what happens at the place |
|---|---|
| `status` | the request is answered with `status` (503 by default) and Ollama's text for it; the place is ignored |
| `reset` | the connection is reset (RST) |
| `close` | the connection is closed (FIN) with the body unfinished |
| `stall` | nothing is sent any more for `stall_s` |
| `error` | the runner dies: Ollama's own error frame of the surface, or a 500 before the first frame |
| `repeat_guard` | the answer ends without its terminal frame, as Ollama ends it when a model repeats itself |
| `over_cap` | the model ignores the output cap and says 64 tokens more than it allows |
| `no_usage` | the counts are left out |
"""

from __future__ import annotations

import random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

FaultKind = Literal["status", "reset", "close", "stall", "error", "repeat_guard", "over_cap", "no_usage"]
OVER_CAP_TOKENS = 64
VERSION = "0.33.0"


class Fault(BaseModel):
    """One way to fail, and how often.

    `after_frames`: null before the response headers, 0 after them, k after k frames of the body.
    `times`: how many requests it still strikes (null: no end). `paths`: which (empty: all that run a model).
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    kind: FaultKind
    probability: float = Field(default=1.0, ge=0, le=1)
    after_frames: int | None = Field(default=None, ge=0)
    status: int = Field(default=503, ge=400, le=599)
    message: str | None = None
    times: int | None = Field(default=None, ge=0)
    paths: tuple[str, ...] = ()


class Behaviour(BaseModel):
    """Pace and faults of one simulated server; change it at any time, it is read per request.

    `tokens_per_s` 0 is as fast as possible. `answer_tokens` is the length of an answer with its end mark and
    without its thinking (null: what the prompt suggests). `cloud` is how names such as `m:cloud` are refused, `version`
    what `/api/version` says. `headers` are added to every answer, as a proxy before the real Ollama might.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    tokens_per_s: float = Field(default=0.0, ge=0)
    load_s: float = Field(default=0.0, ge=0)
    first_byte_s: float = Field(default=0.0, ge=0)
    stall_s: float = Field(default=3600.0, ge=0)
    answer_tokens: int | None = Field(default=None, ge=1)
    tool_calls: Literal["by_model", "own_frame", "done_frame"] = "by_model"
    cloud: Literal["unauthorized", "disabled"] = "unauthorized"
    seed: int = 0
    version: str = VERSION
    headers: dict[str, str] = Field(default_factory=dict)
    faults: list[Fault] = Field(default_factory=list)

    _dice: random.Random = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Starts the dice that decide which requests a fault strikes."""
        self._dice = random.Random(self.seed)  # noqa: S311 - nothing secret

    def become(self, changes: dict[str, Any], initial: Behaviour) -> None:
        """Takes over `changes`, everything else from `initial`, and starts the dice anew. Raises ValidationError."""
        wanted = Behaviour.model_validate({**initial.model_dump(), **changes})
        for name in type(self).model_fields:
            setattr(self, name, getattr(wanted, name))
        self.model_post_init(None)

    def strike(self, path: str, *, runs_model: bool) -> dict[FaultKind, Fault]:
        """The faults that hit this request, at most one of a kind; `times` is counted down."""
        struck: dict[FaultKind, Fault] = {}
        for fault in self.faults:
            applies = path in fault.paths if fault.paths else runs_model
            if not applies or fault.times == 0 or fault.kind in struck:
                continue
            if self._dice.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
            struck[fault.kind] = fault
        return struck

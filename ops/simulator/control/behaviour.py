"""How a simulated Ollama behaves: its pace, and the faults that it injects.

A fault has a kind and a position. The position counts frames, that is flushed writes of the body. In a whole JSON
response every position after the headers is the middle of the document.

| kind | effect at the position |
|---|---|
| `status` | the response is `status` (503 by default) with Ollama's message for it; the position is ignored |
| `reset` | the connection is reset (RST) |
| `close` | the connection is closed (FIN) with the body unfinished |
| `stall` | nothing more is sent for `stall_s`, then the connection is closed |
| `error` | the runner crashes: Ollama's own error frame of the surface, or a 500 before the first frame |
| `repeat_guard` | the answer ends without its terminal frame, as when Ollama stops a model that repeats itself |
| `over_cap` | the model ignores the output cap and generates 64 tokens more than it allows |
| `no_usage` | the counts are omitted |
| `verbatim` | the response is `status`, `headers` and `body` as given, in place of an answer; the position is ignored |
"""

from __future__ import annotations

import random
from typing import Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, PrivateAttr

FaultKind = Literal["status", "reset", "close", "stall", "error", "repeat_guard", "over_cap", "no_usage", "verbatim"]
OVER_CAP_TOKENS = 64
VERSION = "0.33.0"


class Fault(BaseModel):
    """One kind of failure, and which requests it affects.

    `after_frames`: null is before the response headers, 0 is after them, k is after k frames of the body.
    `times`: how many more requests the fault affects; null has no limit.
    `paths`: the affected paths; empty means every path that runs a model.
    `headers` and `body` (base64 in JSON) belong to `verbatim`, and only there may `status` be a success.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    kind: FaultKind
    probability: float = Field(default=1.0, ge=0, le=1)
    after_frames: int | None = Field(default=None, ge=0)
    status: int = Field(default=503, ge=200, le=599)
    message: str | None = None
    times: int | None = Field(default=None, ge=0)
    paths: tuple[str, ...] = ()
    headers: dict[str, str] = Field(default_factory=dict)
    body: Base64Bytes = b""


class Behaviour(BaseModel):
    """Pace and faults of one simulated server. Changes take effect with the next request.

    `tokens_per_s`: pace of an answer; 0 is as fast as possible.
    `prefill_tokens_per_s`: pace of evaluating a prompt, without the prefix that the slot has in its cache; 0 is as fast
    as possible. `first_byte_s`: a time for the evaluation that does not depend on the prompt.
    `cached_prompts`: prompts that are cached in addition to one per slot, as llama-server does in main memory.
    `load_s`: how long loading a model takes.
    `num_parallel`: slots of each loaded model; 0 is no limit, while OLLAMA_NUM_PARALLEL is 1 by default.
    `max_queue`: requests that may wait for a load, as OLLAMA_MAX_QUEUE; the next ones get a 503.
    `max_loaded_models`: as OLLAMA_MAX_LOADED_MODELS, with 0 for no limit.
    `context_length`: as OLLAMA_CONTEXT_LENGTH, for requests and models that set no `num_ctx`.
    `answer_tokens`: length of an answer with its end mark and without its thinking; null derives it from the prompt.
    `tool_calls`: the frame that carries a tool call: a separate one, the last one, or what the model's runner does.
    `cloud`: how names such as `m:cloud` are rejected.
    `version`: the value of `/api/version`.
    `headers`: added to every response, as a proxy in front of the real Ollama might.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    tokens_per_s: float = Field(default=0.0, ge=0)
    prefill_tokens_per_s: float = Field(default=0.0, ge=0)
    first_byte_s: float = Field(default=0.0, ge=0)
    cached_prompts: int = Field(default=0, ge=0)
    load_s: float = Field(default=0.0, ge=0)
    num_parallel: int = Field(default=0, ge=0)
    max_queue: int = Field(default=512, ge=0)
    max_loaded_models: int = Field(default=0, ge=0)
    context_length: int = Field(default=4096, ge=4)
    stall_s: float = Field(default=3600.0, ge=0)
    answer_tokens: int | None = Field(default=None, ge=1)
    tool_calls: Literal["by_model", "own_frame", "done_frame"] = "by_model"
    cloud: Literal["unauthorized", "disabled"] = "unauthorized"
    seed: int = 0
    version: str = VERSION
    headers: dict[str, str] = Field(default_factory=dict)
    faults: list[Fault] = Field(default_factory=list)

    _rng: random.Random = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Seeds the random numbers that decide which requests a fault affects."""
        self._rng = random.Random(self.seed)  # noqa: S311 - not a secret

    def replace(self, changes: dict[str, Any], initial: Behaviour) -> None:
        """Applies `changes`, takes every other field from `initial`, and seeds again. Raises ValidationError."""
        behaviour = Behaviour.model_validate({**initial.model_dump(), **changes})
        for name in type(self).model_fields:
            setattr(self, name, getattr(behaviour, name))
        self.model_post_init(None)

    def draw_faults(self, path: str, *, runs_model: bool) -> dict[FaultKind, Fault]:
        """The faults that affect this request, at most one of each kind. Counts down their `times`."""
        drawn: dict[FaultKind, Fault] = {}
        for fault in self.faults:
            applies = path in fault.paths if fault.paths else runs_model
            if not applies or fault.times == 0 or fault.kind in drawn:
                continue
            if self._rng.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
            drawn[fault.kind] = fault
        return drawn

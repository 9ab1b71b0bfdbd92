"""What each client has to do, and how its result is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import MESSAGE, Code
from tests.clients.client import Result
from tests.clients.gateway import Gateway
from tests.clients.settings import ANSWER, EMBEDDING_DIMENSIONS

Judge = Callable[[Result, Gateway], str]
"""Returns why a result is wrong, or nothing."""


@dataclass(frozen=True)
class Case:
    """One column of the table: an action, how the simulated Ollama behaves meanwhile, and the judge of the result.

    `key` is a field of `Gateway`. `model` replaces the client's own.
    """

    name: str
    action: str
    judge: Judge
    key: str = "key"
    model: str | None = None
    behaviour: Mapping[str, Any] = field(default_factory=dict)


def _lists(result: Result, gateway: Gateway) -> str:
    installed = {model["name"] for model in gateway.ollama.models()}
    return result.error or ("" if set(result.models) == installed else f"it listed {sorted(result.models)}")


def _answers(result: Result, _: Gateway) -> str:
    return result.error or ("" if ANSWER in result.text else f"the answer was {result.text[-200:]!r}")


def _streams(result: Result, gateway: Gateway) -> str:
    if wrong := _answers(result, gateway):
        return wrong
    # An agent does not show the parts.
    return f"the stream had {result.parts} part" if result.parts == 1 else ""


def _uses_the_tool(result: Result, gateway: Gateway) -> str:
    if wrong := _answers(result, gateway):
        return wrong
    # Only the result of the tool, which the second request contains, has this word.
    requests = len(gateway.ollama.requests())
    return "" if requests > 1 else f"it sent {requests} request"


def _embeds(result: Result, _: Gateway) -> str:
    expected = (EMBEDDING_DIMENSIONS, EMBEDDING_DIMENSIONS)
    return result.error or ("" if result.dimensions == expected else f"the vectors have {result.dimensions} components")


def _stops(result: Result, gateway: Gateway) -> str:
    gateway.ollama.wait_until_idle()
    endings = [record["finished"] for record in gateway.ollama.requests()]
    if "cancelled" in endings:
        return ""
    return f"the backend's request ended as {', '.join(endings) or 'none'}: {result.error}"


def _reports(*messages: str) -> Judge:
    """The error contains one of these texts, and no backend received the request."""

    def judge(result: Result, gateway: Gateway) -> str:
        if result.error is None:
            return f"it reported no error: {result.text[-200:]!r}"
        if not any(message in result.error for message in messages):
            return f"it reported {result.error[-300:]!r}"
        return "" if not gateway.ollama.requests() else "the request reached the backend"

    return judge


def _reports_or_retries(result: Result, _: Gateway) -> str:
    if result.error is None and ANSWER not in result.text:
        return f"it reported no error: {result.text[-200:]!r}"
    return ""


def _fails(result: Result, _: Gateway) -> str:
    return f"it reported no error: {result.text[-200:]!r}" if result.error is None else ""


# Codex has its own text for the code `insufficient_quota`.
_CODEX_429 = "Quota exceeded"
# A client that retries succeeds at the third attempt.
_STATUS_500 = {"kind": "status", "status": 500, "times": 2}

CASES: tuple[Case, ...] = (
    Case("list", "list", _lists),
    Case("chat", "chat", _answers),
    Case("stream", "stream", _streams),
    Case("tool", "tools", _uses_the_tool),
    Case("embed", "embed", _embeds),
    Case("abort", "abort", _stops, behaviour={"tokens_per_s": 20, "answer_tokens": 2000}),
    Case("wrong key", "stream", _reports(MESSAGE[Code.INVALID_API_KEY]), key="unknown_key"),
    Case("forbidden model", "stream", _reports(MESSAGE[Code.MODEL_NOT_ALLOWED]), model="no-such-model"),
    Case("429", "stream", _reports("the token budget in total has 1 tokens left", _CODEX_429), key="spent_key"),
    Case("backend fails", "stream", _reports_or_retries, behaviour={"faults": [_STATUS_500]}),
    Case("stream breaks", "stream", _fails, behaviour={"faults": [{"kind": "error", "after_frames": 4}]}),
)

"""Whether a prompt fits the context of its model.

Ollama cuts a prompt that is longer than the context in force, and does not report it. The gateway drops a caller's
`num_ctx`, because it would reload the model for all its users, so a caller that requested a larger context would get
an answer to a part of its prompt. On surfaces where Ollama reads `truncate`, the gateway has Ollama itself refuse such
a prompt; elsewhere the calibrated estimate decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from authz.policy import Permission
from authz.request import ReadRequest
from gateway.errors import Code, Denied
from gateway.request.context import longest_prompt, overflow_message, requested_context
from gateway.values import Principal
from gateway.wire.surfaces import Surface

# A prompt is certainly too long if even this share of its estimate does not fit. Estimates are too high for most texts.
CERTAIN_SHARE = 0.75
# Where only the estimate decides, a prompt is refused when less than this share of the context would be left.
MARGIN = 0.05
# The smallest context of any release of Ollama, for a model whose context is unknown.
SMALLEST_CONTEXT = 2048

Correct = Callable[[int, str, int], Awaitable[int]]
"""`correct(tenant_id, model, tokens)` is the calibrated estimate. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class ContextDecision:
    """What follows for the request.

    `in_force` is the context in tokens, 0 when it is unknown; `requested` the one that the caller requested and does
    not get, 0 for none. `refuses_overflow` means that Ollama has to refuse a prompt that is too long. `calibrates`
    means that the count of the prompt can be compared with its estimate, because the prompt is not cut.
    """

    in_force: int
    requested: int
    refuses_overflow: bool
    calibrates: bool


class ContextRule:
    """`refuses` is CONTEXT_OVERFLOW=refuse; `correct` calibrates estimates."""

    def __init__(self, correct: Correct, *, refuses: bool) -> None:
        self._correct = correct
        self._refuses = refuses

    async def decide(
        self, principal: Principal, permission: Permission, surface: Surface, read: ReadRequest, input_tokens: int
    ) -> ContextDecision:
        """Decides on one request. Raises Denied(context_length_exceeded) for a prompt that does not fit.

        `input_tokens` is the estimate of all its input.
        """
        in_force, requested = permission.context_tokens or 0, requested_context(surface, read.document)
        if permission.runner_options and requested:
            in_force, requested = requested, 0
        requests_more = requested > in_force > 0 and read.document.get("truncate") is not True
        prompt = longest_prompt(surface, read.document, input_tokens)
        if in_force and (self._refuses or requests_more) and prompt * CERTAIN_SHARE > in_force / 8:
            corrected = await self._correct(principal.tenant_id, read.model, prompt)
            by_estimate = self._refuses and not surface.truncates
            limit = in_force * (1 - MARGIN) if by_estimate else in_force / CERTAIN_SHARE
            if corrected > limit:
                raise Denied(Code.CONTEXT_LENGTH_EXCEEDED, overflow_message(corrected, in_force, requested))
        return ContextDecision(
            in_force,
            requested if requests_more else 0,
            surface.truncates and (self._refuses or requests_more),
            prompt <= (in_force or SMALLEST_CONTEXT),
        )

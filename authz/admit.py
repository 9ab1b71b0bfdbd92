"""From a permitted request to a grant: the one call to the quota, and the headers that follow from its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from authz.affinity import with_preference
from authz.context import ContextRule
from authz.line import Line, Stopped
from authz.policy import Permission, clusters_in_order
from authz.request import ReadRequest
from gateway.errors import STATUS, Code, Denied
from gateway.quota.port import Admission, LimitStatus, Quota, ReservationDenied, Reserved
from gateway.record import grant
from gateway.record.request import RequestRecord
from gateway.request.token_estimate import estimate_input
from gateway.values import Period, Principal
from gateway.wire.media_types import accepted_type
from gateway.wire.names import OUTPUT_CAP_HEADER, QUEUE_WAIT_HEADER, cluster_name
from gateway.wire.surfaces import Surface

_TOO_MANY_RUNNING = "the gateway runs as many requests as it can at the moment; try again soon"

_PER_PERIOD = {Period.DAY: "of this day", Period.MONTH: "of this month", Period.TOTAL: "in total"}

# Retry-After when no exact time is known. Without the header clients retry immediately. Running requests may release
# their holds at any moment. The window of a limit per minute has passed after 60 s, a budget lasts at least a day.
_DEFAULT_RETRY_AFTER_S = {
    Code.CONCURRENCY_EXCEEDED: 1,
    Code.BUDGET_RESERVED: 1,
    Code.QUEUE_FULL: 1,
    Code.RATE_LIMIT_EXCEEDED: 60,
    Code.TOKEN_RATE_EXCEEDED: 60,
    Code.AUTH_THROTTLED: 60,
    Code.BUDGET_EXHAUSTED: 86_400,
}


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request: its path upstream, the clusters to try in order, the sealed grant, headers of the answer.

    `accept` is the media type of the answer. `caller_json` names the caller of a head that may pass; see
    `gateway.record.caller`. `queued_ms` is the time in the queue, None if it did not wait. A request whose last cluster
    is a busy server tries the first one again, up to `busy_retries` times, and has its slot meanwhile; None for a
    request without a slot.
    """

    path: str
    clusters: tuple[str, ...]
    grant_json: str
    headers: Mapping[str, str]
    accept: str = ""
    caller_json: str = ""
    queued_ms: int | None = None
    busy_retries: int | None = None

    @classmethod
    def unconditionally(cls, caller_json: str) -> Admitted:
        """The head of a request may pass. Nothing is granted, because its body is checked as well."""
        return cls("", (), "", {}, caller_json=caller_json)


@dataclass(frozen=True, slots=True)
class Denial:
    """A denied request: the denial, the headers of its answer, and the time in the queue, None if it did not wait.

    `record` has what was known of the request, once the denial is recorded.
    """

    denied: Denied
    headers: Mapping[str, str] = field(default_factory=dict)
    queued_ms: int | None = None
    record: RequestRecord | None = None


class Admitter:
    """Reserves a request's share.

    `context` decides on long prompts. `model_refusal_status` is the status of model_not_allowed. With `line`, requests
    wait in the queue for a slot, and with `has_affinity` the turns of a conversation prefer one replica.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        context: ContextRule | None = None,
        model_refusal_status: int = STATUS[Code.MODEL_NOT_ALLOWED],
        line: Line | None = None,
        has_affinity: bool = False,
    ) -> None:
        self._quota = quota
        self._line = line
        self._has_affinity = has_affinity
        self._context = context or ContextRule(_uncorrected, refuses=False)
        self._model_refusal_status = model_refusal_status

    async def admit(
        self,
        record: RequestRecord,
        principal: Principal,
        permission: Permission,
        surface: Surface,
        read: ReadRequest,
        deadline: asyncio.Timeout,
    ) -> Admitted | Denial:
        """Reserves everything that the request needs, or nothing. With a queue it may wait for a slot first.

        It clears the document of `read` before it waits.
        A wait extends the `deadline` of the check. Raises StoreUnavailable when the quota is, and
        Denied(context_length_exceeded).
        """
        input_tokens = estimate_input(read.document, templates_prompt=surface.templates_prompt)
        context = await self._context.decide(principal, permission, surface, read, input_tokens)
        draft = grant.draft(
            record,
            strip_usage=not read.generation.usage,
            runner_options=permission.runner_options,
            show_backend=permission.show_backend,
            log_prompts=principal.log_prompts,
            requested_model=read.requested_model,
            hosted_model=permission.hosted_model,
            requested_cap=read.generation.named_cap,
            backend_addresses=permission.backend_addresses,
            refusal_status=self._model_refusal_status,
            context_tokens=context.in_force,
            requested_context=context.requested,
            refuses_overflow=context.refuses_overflow,
            weight=principal.weight,
        )
        admission = Admission(
            request_id=record.request_id,
            tenant_id=principal.tenant_id,
            key_id=principal.key_id,
            tenant_limits=principal.tenant_limits,
            key_limits=principal.key_limits,
            tenant_budgets=principal.tenant_budgets,
            key_budgets=principal.key_budgets,
            model=read.model,
            input_tokens=input_tokens,
            requested_output_tokens=_output_tokens(principal, surface, read, permission),
            grant_draft=draft,
            calibrates=context.calibrates,
        )
        if self._line is None or not permission.replicas:
            answer, queued_ms = await self._quota.admit(admission), None
        else:
            candidates = permission.replicas
            # An embedding leaves no prefix that another request could use.
            if self._has_affinity and surface.cap_field is not None:
                candidates = with_preference(candidates, principal.tenant_id, read.model, read.document)
            # Nothing reads the prompt any more, and the request may wait for long.
            read.document.clear()
            ticket = self._line.ticket(admission, principal, candidates, record.request_bytes)
            passed = await self._line.pass_through(admission, ticket, deadline)
            if isinstance(passed, Stopped):
                return Denial(passed.denied, queued_ms=passed.queued_ms)
            answer, queued_ms = passed.answer, passed.queued_ms
        headers = rate_headers(answer.limit_status)
        if isinstance(answer, ReservationDenied):
            return Denial(_denied(answer, input_tokens), headers, queued_ms)
        if answer.output_cap < (read.generation.output_tokens or 0):
            headers[OUTPUT_CAP_HEADER] = str(answer.output_cap)
        if answer.queued_ms:
            headers[QUEUE_WAIT_HEADER] = str(answer.queued_ms)
        sealed = grant.seal(
            draft, answer.admitted_at_ms, answer.input_tokens, answer.output_cap, answer.replica, answer.queued_ms
        )
        return Admitted(
            surface.path,
            _clusters(answer, permission),
            sealed,
            headers,
            accepted_type(surface, stream=read.generation.stream),
            queued_ms=queued_ms,
            busy_retries=self._line.busy_retries(answer.queued_ms) if self._line and answer.replica else None,
        )


def _clusters(answer: Reserved, permission: Permission) -> tuple[str, ...]:
    if answer.replica:
        return clusters_in_order(answer.replica, permission)
    return tuple(map(cluster_name, permission.candidates))


async def _uncorrected(_tenant_id: int, _model: str, tokens: int) -> int:
    return tokens


def _output_tokens(principal: Principal, surface: Surface, read: ReadRequest, permission: Permission) -> int:
    """The smallest of the allowance, the requested cap and, where Ollama would use it, the model's own cap."""
    if surface.cap_field is None:
        return 0
    own = None if read.generation.names_cap else permission.own_output_tokens
    return min(filter(None, (principal.sizes.output_tokens, read.generation.output_tokens, own)))


def _denied(answer: ReservationDenied, input_tokens: int) -> Denied:
    """The denial, with a sentence that has both numbers where the same request can never be admitted."""
    status = answer.limit_status
    if answer.code is Code.UNAVAILABLE:
        # Every dependency answers; the ceiling MAX_CONCURRENT_REQUESTS is reached, and any request may end soon.
        return Denied(answer.code, _TOO_MANY_RUNNING, retry_after_s=1)
    message = None
    if answer.code is Code.TOKEN_RATE_EXCEEDED and answer.retry_after_s is None:
        message = (
            f"this request needs about {max(input_tokens, status.tokens_limit) + 1} tokens, more than the limit of"
            f" {status.tokens_limit} tokens per minute; shorten it, or ask for a higher limit"
        )
    elif answer.code is Code.BUDGET_EXHAUSTED and status.budget_remaining is not None:
        message = (
            f"the token budget {_PER_PERIOD[status.budget_period or Period.TOTAL]} has {status.budget_remaining} tokens"
            f" left, and this request needs about {max(input_tokens, status.budget_remaining) + 1}"
        )
    return Denied(answer.code, message, retry_after_s=answer.retry_after_s)


def rate_headers(limit_status: LimitStatus) -> dict[str, str]:
    """The rate and budget headers of every proxied answer and of every 429 that the quota decided."""
    headers = {
        "x-ratelimit-limit-requests": str(limit_status.requests_limit),
        "x-ratelimit-remaining-requests": str(limit_status.requests_remaining),
        "x-ratelimit-limit-tokens": str(limit_status.tokens_limit),
        "x-ratelimit-remaining-tokens": str(limit_status.tokens_remaining),
        "x-ratelimit-reset-requests": str(limit_status.resets_in_s),
        "x-ratelimit-reset-tokens": str(limit_status.resets_in_s),
    }
    if limit_status.budget_period is not None and limit_status.budget_remaining is not None:
        headers["x-budget-period"] = str(limit_status.budget_period)
        headers["x-budget-tokens-remaining"] = str(limit_status.budget_remaining)
    return headers


def retry_headers(denied: Denied) -> dict[str, str]:
    """`retry-after`, which every 429 has, and `x-should-retry: false` where trying again makes no sense.

    That is a used budget, and a request that is larger than the limit itself, for which no time is known.
    """
    wait_s = _DEFAULT_RETRY_AFTER_S.get(denied.code) if denied.retry_after_s is None else denied.retry_after_s
    headers = {} if wait_s is None else {"retry-after": str(wait_s)}
    too_large = denied.code is Code.TOKEN_RATE_EXCEEDED and denied.retry_after_s is None
    if denied.code is Code.BUDGET_EXHAUSTED or too_large:
        headers["x-should-retry"] = "false"
    return headers

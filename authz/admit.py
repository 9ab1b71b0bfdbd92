"""From a request that is allowed in principle to a grant: the one call to the quota, and the headers it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from authz.checked_request import CheckedRequest
from authz.policy import may_see_backend, may_set_runner_options
from authz.request import ReadRequest
from gateway.errors import Code, Denied
from gateway.quota.port import Admission, LimitStatus, Quota, Refused
from gateway.record.grant import Grant
from gateway.request.token_estimate import estimate_input
from gateway.values import Principal
from gateway.wire.surfaces import Surface

# What a 429 says where nobody knows a time: a client that is told none comes back at once, and again. What running
# requests hold may be free any moment; a limit per minute has moved on after its window, a budget not before a day.
_DEFAULT_RETRY_AFTER_S = {
    Code.CONCURRENCY_EXCEEDED: 1,
    Code.BUDGET_RESERVED: 1,
    Code.RATE_LIMIT_EXCEEDED: 60,
    Code.TOKEN_RATE_EXCEEDED: 60,
    Code.AUTH_THROTTLED: 60,
    Code.BUDGET_EXHAUSTED: 86_400,
}


@dataclass(frozen=True, slots=True)
class Admitted:
    """The yes: the grant, the places to try in order (a backend once per attempt), headers for the answer."""

    grant: Grant
    attempts: tuple[str, ...]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """The no, and the headers that go with it."""

    denial: Denied
    headers: Mapping[str, str] = field(default_factory=dict)


class Admitter:
    """Asks the quota for a hold. `num_predict_max` is the most output tokens any request is granted."""

    def __init__(self, quota: Quota, num_predict_max: int) -> None:
        self._quota = quota
        self._num_predict_max = num_predict_max

    async def admit(
        self,
        attempt: CheckedRequest,
        principal: Principal,
        surface: Surface,
        request: ReadRequest,
        attempts: tuple[str, ...],
    ) -> Admitted | NotAdmitted:
        """Reserves the request's share, all or nothing. Raises StoreUnavailable when the quota cannot say."""
        asked = self._requested_output_tokens(surface, request)
        draft = Grant(
            request_id=attempt.request_id,
            admitted_at_ms=0,
            tenant_id=principal.tenant_id,
            tenant=principal.tenant,
            key_id=principal.key_id,
            key_prefix=principal.key_prefix,
            client_ip=attempt.client_ip,
            user_agent=attempt.user_agent,
            method=attempt.method,
            path=surface.path,
            surface=surface.name,
            model=request.model,
            stream=request.asked.stream,
            strip_usage=not request.asked.usage,
            runner_options=may_set_runner_options(principal),
            show_backend=may_see_backend(principal),
            log_prompts=principal.log_prompts,
            input_estimate=estimate_input(request.document),
            output_cap=asked,
            request_bytes=len(attempt.body),
        )
        answer = await self._quota.admit(
            Admission(
                request_id=draft.request_id,
                tenant_id=draft.tenant_id,
                key_id=draft.key_id,
                tenant_limits=principal.tenant_limits,
                key_limits=principal.key_limits,
                tenant_budgets=principal.tenant_budgets,
                key_budgets=principal.key_budgets,
                model=draft.model,
                input_tokens=draft.input_estimate,
                requested_output_tokens=asked,
                record=draft.to_json(),
            )
        )
        headers = rate_headers(answer.limit_status)
        if isinstance(answer, Refused):
            return NotAdmitted(Denied(answer.code, retry_after_s=answer.retry_after_s), headers)
        grant = replace(
            draft,
            admitted_at_ms=answer.admitted_at_ms,
            input_estimate=answer.input_tokens,
            output_cap=answer.output_cap,
        )
        return Admitted(grant, attempts, headers)

    def _requested_output_tokens(self, surface: Surface, request: ReadRequest) -> int:
        if surface.cap_field is None:
            return 0
        return min(request.asked.output_tokens or self._num_predict_max, self._num_predict_max)


def rate_headers(limit_status: LimitStatus) -> dict[str, str]:
    """The rate and budget headers of every proxied answer and of every 429."""
    headers = {
        "x-ratelimit-limit-requests": str(limit_status.requests_limit),
        "x-ratelimit-remaining-requests": str(limit_status.requests_remaining),
        "x-ratelimit-limit-tokens": str(limit_status.tokens_limit),
        "x-ratelimit-remaining-tokens": str(limit_status.tokens_remaining),
    }
    if limit_status.budget_period is not None and limit_status.budget_remaining is not None:
        headers["x-budget-period"] = str(limit_status.budget_period)
        headers["x-budget-tokens-remaining"] = str(limit_status.budget_remaining)
    return headers


def refusal_headers(denial: Denied) -> dict[str, str]:
    """When to come back, which every 429 says, and whether trying again makes sense at all."""
    wait_s = _DEFAULT_RETRY_AFTER_S.get(denial.code) if denial.retry_after_s is None else denial.retry_after_s
    headers = {} if wait_s is None else {"retry-after": str(wait_s)}
    if denial.code is Code.BUDGET_EXHAUSTED:
        headers["x-should-retry"] = "false"
    return headers

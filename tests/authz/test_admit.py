"""The denial of a request that the quota denies, and its headers."""

from __future__ import annotations

import asyncio
import json

import pytest

from authz.admit import Admitted, Admitter, Denial, retry_headers
from authz.checked_request import Body, CheckedRequest
from authz.policy import Permission
from authz.request import read_request
from gateway.errors import STATUS, Code, Denied
from gateway.record.grant import Grant
from gateway.values import Budgets, Principal
from gateway.wire.surfaces import BY_PATH, SURFACES, Surface
from tests.gateway.quota.builders import WIDE, Clock, Ledger
from tests.gateway.quota.model.quota import MemoryQuota

# On /v1/messages Ollama requires a cap.
OPTIONAL_CAP = [surface for surface in SURFACES if surface.cap_field and surface.name != "v1_messages"]


def test_exactly_the_429s_have_a_retry_after_even_when_no_time_is_known() -> None:
    with_time = {code for code in Code if "retry-after" in retry_headers(Denied(code))}
    assert with_time == {code for code, status in STATUS.items() if status == 429}
    assert all(int(retry_headers(Denied(code))["retry-after"]) > 0 for code in with_time)


def test_a_known_retry_time_is_sent() -> None:
    assert retry_headers(Denied(Code.RATE_LIMIT_EXCEEDED, retry_after_s=7))["retry-after"] == "7"


def test_only_an_exhausted_budget_and_a_request_above_the_limit_itself_are_not_worth_a_retry() -> None:
    never = {Code.BUDGET_EXHAUSTED, Code.TOKEN_RATE_EXCEEDED}
    assert {code for code in Code if "x-should-retry" in retry_headers(Denied(code))} == never
    assert "x-should-retry" not in retry_headers(Denied(Code.TOKEN_RATE_EXCEEDED, retry_after_s=5))


async def test_a_request_beyond_the_maximum_of_running_requests_is_retried_after_a_second() -> None:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=10, running_max=1, load=Ledger().load, restore_s=0)
    admitter = Admitter(quota)
    principal = Principal(
        1, "acme", 11, "nz_abc", frozenset(), frozenset(), True, WIDE, WIDE, Budgets(), Budgets(), False, None
    )
    surface = BY_PATH["/api/chat"]
    decisions = []
    for request_id in ("first", "second"):
        checked = CheckedRequest(request_id, "POST", surface.path, None, "192.0.2.1", "", "", Body(b'{"model": "m"}'))
        read = read_request(surface, checked.body.take(), "")
        record = checked.record(principal, surface, read)
        permission = Permission("m:latest", ("default",), runner_options=False, show_backend=False)
        decisions.append(await admitter.admit(record, principal, permission, surface, read, asyncio.timeout(None)))
    admitted, denial = decisions
    assert isinstance(admitted, Admitted)
    assert isinstance(denial, Denial)
    assert (denial.denied.status, denial.denied.code) == (503, Code.UNAVAILABLE)
    assert "as many requests as it can" in denial.denied.message
    assert retry_headers(denial.denied) == {"retry-after": "1"}


@pytest.mark.parametrize("own", [12, 5000, None])
@pytest.mark.parametrize(
    "surface", [one for one in SURFACES if one.cap_field and one.name != "v1_messages"], ids=lambda one: one.name
)
async def test_a_request_without_a_cap_gets_the_smaller_of_its_allowance_and_the_models_own_cap(
    surface: Surface, own: int | None
) -> None:
    """W2 of the comparison with the real Ollama."""
    principal = Principal(
        1, "acme", 11, "nz_abc", frozenset(), frozenset(), True, WIDE, WIDE, Budgets(), Budgets(), False, None
    )
    permission = Permission("m:latest", ("default",), runner_options=False, show_backend=False, own_output_tokens=own)
    granted = {}
    for cap in (None, -1, 7, 100):
        quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=10, running_max=9, load=Ledger().load, restore_s=0)
        assert surface.cap_field is not None
        *parents, name = surface.cap_field
        body: dict[str, object] = {} if cap is None else {name: cap}
        for parent in parents:
            body = {parent: body}
        sent = Body(json.dumps({"model": "m", **body}).encode())
        checked = CheckedRequest(f"r{cap}", "POST", surface.path, None, "192.0.2.1", "", "", sent)
        read = read_request(surface, checked.body.take(), "")
        record = checked.record(principal, surface, read)
        decision = await Admitter(quota).admit(record, principal, permission, surface, read, asyncio.timeout(None))
        assert isinstance(decision, Admitted)
        granted[cap] = Grant.from_json(decision.grant_json).output_cap
    assert granted == {None: min(own or 4096, 4096), -1: 4096, 7: 7, 100: 100}

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import NotFound
from gateway.ledger.store import Ledger
from gateway.quota.periods import end
from gateway.stores.postgres import Database
from gateway.values import Outcome, Period
from ops.database.policies import PolicySubject
from ops.database.reports import AUDIT_COLUMNS, Filter, GroupBy, Reports
from ops.database.tenants import Key, Tenant, TenantRepository
from tests.row_builders import NOON, add_key, entry, new_key

EVERYTHING = Filter()


class Scenario:
    """Tenants Acme (key `laptop`) and Beta (key `ci`) with three admitted requests and one denied request."""

    def __init__(self, acme: Tenant, beta: Tenant, laptop: Key, ci: Key) -> None:
        self.acme, self.beta, self.laptop, self.ci = acme, beta, laptop, ci


@pytest.fixture
async def scenario(database: Database) -> Scenario:
    tenants = TenantRepository(database)
    acme = await tenants.create_tenant("Acme", {"budget_day": 100, "budget_total": 5000})
    beta = await tenants.create_tenant("Beta", {})
    laptop, ci = await add_key(tenants), await add_key(tenants, tenant="beta", name="ci", policy={"budget_month": 50})
    of_laptop = {"tenant_id": acme.id, "tenant": "Acme", "key_id": laptop.id, "key_prefix": laptop.prefix}
    of_ci = {"tenant_id": beta.id, "tenant": "Beta", "key_id": ci.id, "key_prefix": ci.prefix}
    await Ledger(database).append(
        [
            entry("1", NOON, **of_laptop),
            entry("2", NOON - timedelta(days=1), **of_laptop, model="qwen3:0.6b"),
            entry("3", NOON + timedelta(minutes=1), **of_ci, input_tokens=20),
            entry("4", NOON + timedelta(minutes=2), **of_ci, outcome=Outcome.DENIED, status=429),
        ]
    )
    return Scenario(acme, beta, laptop, ci)


@pytest.fixture
def reports(database: Database) -> Reports:
    return Reports(database)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (GroupBy.DAY, [({"day": "2026-05-16"}, 1, 3, 4), ({"day": "2026-05-17"}, 2, 23, 8)]),
        (GroupBy.MODEL, [({"model": "llama3.2:latest"}, 2, 23, 8), ({"model": "qwen3:0.6b"}, 1, 3, 4)]),
        (GroupBy.TENANT, [({"tenant": "Beta"}, 1, 20, 4), ({"tenant": "Acme"}, 2, 6, 8)]),
    ],
)
async def test_usage_is_summed_by_the_requested_dimension(
    scenario: Scenario, reports: Reports, by: GroupBy, expected: list[object]
) -> None:
    rows = await reports.usage(by, EVERYTHING)
    assert [(row.labels, row.requests, row.input_tokens, row.output_tokens) for row in rows] == expected


async def test_usage_by_key_names_key_and_tenant(scenario: Scenario, reports: Reports) -> None:
    rows = await reports.usage(GroupBy.KEY, EVERYTHING)
    assert [row.labels for row in rows] == [
        {"prefix": scenario.ci.prefix, "key": "ci", "tenant": "Beta"},
        {"prefix": scenario.laptop.prefix, "key": "laptop", "tenant": "Acme"},
    ]


async def test_usage_is_filtered_by_tenant_key_and_time(scenario: Scenario, reports: Reports) -> None:
    async def requests(where: Filter) -> int:
        return sum(row.requests for row in await reports.usage(GroupBy.DAY, where))

    assert await requests(Filter(tenant="acme")) == 2
    assert await requests(Filter(prefix=scenario.ci.prefix)) == 1
    assert await requests(Filter(since=NOON)) == 2
    assert await requests(Filter(tenant="acme", since=NOON)) == 1


async def test_budgets_report_the_use_of_the_current_period(scenario: Scenario, reports: Reports) -> None:
    rows = await reports.budgets(EVERYTHING, NOON)
    assert [(row.scope, row.tenant, row.prefix, row.period, row.limit, row.used) for row in rows] == [
        ("tenant", "Acme", None, Period.DAY, 100, 7),
        ("tenant", "Acme", None, Period.TOTAL, 5000, 14),
        ("key", "Beta", scenario.ci.prefix, Period.MONTH, 50, 24),
    ]
    next_year = await reports.budgets(EVERYTHING, NOON + timedelta(days=366))
    assert [row.used for row in next_year] == [0, 14, 0]


async def test_budgets_of_a_key_include_those_of_its_tenant(
    scenario: Scenario, reports: Reports, database: Database
) -> None:
    await TenantRepository(database).change_policy(PolicySubject("key", scenario.laptop.prefix), {"budget_day": 9})
    rows = await reports.budgets(Filter(prefix=scenario.laptop.prefix), NOON)
    assert [(row.scope, row.period) for row in rows] == [
        ("tenant", Period.DAY),
        ("tenant", Period.TOTAL),
        ("key", Period.DAY),
    ]
    assert await reports.budgets(Filter(tenant="beta", prefix=scenario.laptop.prefix), NOON) == []


async def test_the_audit_report_returns_the_newest_rows_oldest_first(scenario: Scenario, reports: Reports) -> None:
    rows = await reports.audit(EVERYTHING, 3)
    assert [row["request_id"] for row in rows] == ["1", "3", "4"]
    assert list(rows[0]) == list(AUDIT_COLUMNS)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (Filter(tenant="ACME"), ["2", "1"]),
        (Filter(request_id="3"), ["3"]),
        (Filter(request_id="nothing"), []),
        (Filter(since=NOON + timedelta(minutes=1)), ["3", "4"]),
    ],
)
async def test_the_audit_report_is_filtered(
    scenario: Scenario, reports: Reports, where: Filter, ids: list[str]
) -> None:
    assert [row["request_id"] for row in await reports.audit(where, 10)] == ids


async def test_an_unknown_tenant_or_key_is_not_found(scenario: Scenario, reports: Reports) -> None:
    with pytest.raises(NotFound, match="did you mean Acme"):
        await reports.usage(GroupBy.DAY, Filter(tenant="acm"))
    with pytest.raises(NotFound, match="no key"):
        await reports.audit(Filter(prefix="nz_000000000"), 1)
    with pytest.raises(NotFound):
        await reports.budgets(Filter(tenant="unknown"), NOON)


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2026-01-31T10:00:00+00:00", "2026-02-01", "2026-02-01"),
        ("2026-12-31T23:59:59+00:00", "2027-01-01", "2027-01-01"),
        ("2027-01-01T00:30:00+01:00", "2027-01-01", "2027-01-01"),
        ("2024-02-28T00:00:00+00:00", "2024-02-29", "2024-03-01"),
    ],
)
def test_budgets_reset_at_the_next_midnight_utc_of_their_period(now: str, day: str, month: str) -> None:
    moment = datetime.fromisoformat(now)
    assert end(Period.DAY, moment) == datetime.fromisoformat(day).replace(tzinfo=UTC)
    assert end(Period.MONTH, moment) == datetime.fromisoformat(month).replace(tzinfo=UTC)
    assert end(Period.TOTAL, moment) is None


async def test_the_keys_of_one_account_are_reported_together_under_the_last_of_them(
    scenario: Scenario, reports: Reports, database: Database
) -> None:
    successor, _ = await TenantRepository(database).rotate_key(scenario.ci.prefix, new_key(), timedelta(hours=1))
    account = {"tenant_id": scenario.beta.id, "tenant": "Beta", "key_id": scenario.ci.id}
    await Ledger(database).append([entry("5", NOON, **account, key_prefix=successor.prefix, input_tokens=7)])
    rows = await reports.usage(GroupBy.KEY, EVERYTHING)
    assert [(row.labels["prefix"], row.requests, row.input_tokens) for row in rows if row.labels["key"] == "ci"] == [
        (successor.prefix, 2, 27)
    ]
    for prefix in (scenario.ci.prefix, successor.prefix):
        assert sum(row.requests for row in await reports.usage(GroupBy.DAY, Filter(prefix=prefix))) == 2
        (budget,) = [row for row in await reports.budgets(Filter(prefix=prefix), NOON) if row.scope == "key"]
        assert (budget.subject_id, budget.prefix, budget.used) == (scenario.ci.id, successor.prefix, 24 + 11)
    audit = await reports.audit(Filter(prefix=successor.prefix), 10)
    assert {row["key_prefix"] for row in audit} == {scenario.ci.prefix, successor.prefix}


async def test_the_rows_of_a_prefix_include_refused_ones_and_those_of_a_deleted_key(
    scenario: Scenario, reports: Reports, database: Database
) -> None:
    prefix = scenario.laptop.prefix
    unowned = {"tenant_id": None, "tenant": None, "key_id": None, "outcome": Outcome.DENIED, "status": 401}
    refused = entry("5", NOON + timedelta(minutes=3), **unowned, key_prefix=prefix, reason="wrong_secret")
    gone = entry("6", NOON, **unowned, key_prefix="nz_deleted12", reason="unknown")
    await Ledger(database).append([refused, gone])
    rows = await reports.audit(Filter(prefix=prefix), 10)
    assert [(row["request_id"], row["reason"]) for row in rows] == [("2", None), ("1", None), ("5", "wrong_secret")]
    assert [row["request_id"] for row in await reports.audit(Filter(tenant="acme", prefix=prefix), 10)] == ["2", "1"]
    assert [row["request_id"] for row in await reports.audit(Filter(prefix="nz_deleted12"), 10)] == ["6"]
    with pytest.raises(NotFound):
        await reports.audit(Filter(prefix="nz_neverseen"), 10)

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from gateway.ledger.store import Ledger
from gateway.quota.port import Admission, Reserved
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import load
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Budgets, Limits, Outcome
from ops.database.reports import AUDIT_COLUMNS
from tests.ops.cli.conftest import Operator
from tests.redis_server import one_server
from tests.row_builders import entry

NOW = datetime.now(UTC)


def record(operator: Operator, *ids: str, at: datetime = NOW, **fields: object) -> None:
    """Writes ledger rows with these request ids."""

    async def append() -> None:
        database = Database(load(operator.env_file))
        await Ledger(database).append([entry(each, at, **fields) for each in ids])
        await database.close()

    asyncio.run(append())


@pytest.fixture
def busy(operator: Operator) -> Operator:
    operator.does("create-tenant", "--name", "Acme")
    prefix = operator.reads("create-key", "--tenant", "Acme", "--name", "laptop")["prefix"]
    record(operator, "one", "two", tenant="Acme", key_prefix=prefix)
    record(
        operator, "no", tenant="Acme", key_prefix=prefix, outcome=Outcome.DENIED, code="budget_exhausted", status=429
    )
    return operator


@pytest.mark.parametrize("command", ["show-usage", "show-audit"])
def test_reports_are_read_from_the_replica_if_one_is_set(busy: Operator, command: str) -> None:
    text = busy.env_file.read_text()
    unreachable = "DATABASE_URL=postgresql://u:p@127.0.0.1:1/db\n"
    busy.env_file.write_text(unreachable + text.replace("DATABASE_URL=", "DATABASE_REPORT_URL="))
    assert busy.reads(command)
    assert "cannot be reached" in busy.fails("list-tenants")


def test_usage_has_rows_totals_and_budgets(busy: Operator) -> None:
    busy.run("set-budget", "--tenant", "acme", "--daily", "100", "--total", "10")
    usage = busy.reads("show-usage")
    counts = {"requests": 2, "input_tokens": 6, "output_tokens": 8, "queued_ms": 0}
    assert usage["rows"] == [{"day": f"{NOW:%Y-%m-%d}", **counts}]
    assert usage["totals"] == counts
    day, total = usage["budgets"]
    assert (day["scope"], day["period"], day["limit"], day["used"]) == ("tenant", "day", 100, 14)
    midnight = datetime.combine(NOW.date() + timedelta(days=1), datetime.min.time(), UTC)
    assert datetime.fromisoformat(day["resets_at"]) == midnight
    assert (total["period"], total["resets_at"]) == ("total", None)


def test_reserved_tokens_are_unknown_while_redis_is_unavailable(busy: Operator) -> None:
    busy.does("set-budget", "--tenant", "acme", "--daily", "100")
    assert busy.reads("show-usage")["budgets"][0]["reserved"] is None


def test_the_tokens_that_running_requests_hold_are_shown_as_reserved(busy: Operator) -> None:
    with one_server() as server:
        lines = busy.env_file.read_text().replace("redis://127.0.0.1:1/0", server.url)
        busy.env_file.write_text(lines)
        busy.does("set-budget", "--tenant", "acme", "--daily", "1000")
        assert busy.reads("show-usage")["budgets"][0]["reserved"] == 0

        async def admit() -> None:
            settings = load(busy.env_file)
            database, redis = Database(settings), connect(settings)
            quota = RedisQuota(redis, settings, Ledger(database).usage_of, restore_s=0)
            limits, budgets = Limits(60, 100_000, 8), Budgets(day=1000)
            admitted = await quota.admit(Admission("r", 1, 1, limits, limits, budgets, Budgets(), "m", 30, 20, "{}"))
            assert isinstance(admitted, Reserved)
            await quota.aclose()
            await redis.aclose()
            await database.close()

        asyncio.run(admit())
        (budget,) = busy.reads("show-usage")["budgets"]
        assert (budget["used"], budget["reserved"]) == (14, 50)


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("model", {"model": "llama3.2:latest"}),
        ("tenant", {"tenant": "Acme"}),
        ("key", {"key": "laptop", "tenant": "Acme"}),
    ],
)
def test_usage_is_grouped_by_the_given_label(busy: Operator, by: str, labels: dict[str, str]) -> None:
    (row,) = busy.reads("show-usage", "--by", by)["rows"]
    assert row.items() >= labels.items()
    assert row["requests"] == 2


def test_the_plot_draws_the_largest_as_a_full_bar(busy: Operator) -> None:
    record(busy, "small", tenant="Acme", model="tiny:latest", input_tokens=7, output_tokens=0)
    lines = {line.split()[0]: line for line in busy.does("show-usage", "--by", "model", "--plot").splitlines() if line}
    assert lines["llama3.2:latest"].count("█") == 30
    assert lines["tiny:latest"].count("█") == 15


def test_no_usage_is_a_sentence_or_an_empty_json_document(operator: Operator) -> None:
    assert operator.does("show-usage").startswith("no usage since ")
    assert operator.reads("show-usage", "--since", "1h") == {
        "rows": [], "totals": {"requests": 0, "input_tokens": 0, "output_tokens": 0, "queued_ms": 0}, "budgets": [],
    }  # fmt: skip


def test_audit_rows_carry_every_column(busy: Operator) -> None:
    rows = busy.reads("show-audit")
    assert [list(row) for row in rows] == [list(AUDIT_COLUMNS)] * 3
    denied = next(row for row in rows if row["request_id"] == "no")
    assert (denied["status"], denied["code"], denied["outcome"]) == (429, "budget_exhausted", "denied")
    assert datetime.fromisoformat(denied["ts"]) == NOW.replace(microsecond=round(NOW.microsecond, -3) % 1_000_000)


def test_the_audit_log_is_filtered_and_limited(busy: Operator) -> None:
    assert [row["request_id"] for row in busy.reads("show-audit", "--request-id", "two")] == ["two"]
    assert len(busy.reads("show-audit", "--tenant", "ACME", "--limit", "1")) == 1
    assert busy.reads("show-audit", "--since", (NOW + timedelta(days=1)).isoformat()) == []


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "429"], ["no"]),
        (["--status", "4xx"], ["no", "other"]),
        (["--status", "5xx"], []),
        (["--code", "budget_exhausted"], ["no"]),
        (["--model", "TINY"], ["other"]),
        (["--path", "/v1"], ["other"]),
        (["--outcome", "complete"], ["one", "two"]),
        (["--outcome", "denied", "--status", "403"], ["other"]),
    ],
)
def test_audit_rows_are_filtered_by_their_columns(busy: Operator, options: list[str], ids: list[str]) -> None:
    record(busy, "other", model="tiny:latest", path="/v1/chat/completions", outcome=Outcome.DENIED, status=403)
    assert sorted(row["request_id"] for row in busy.reads("show-audit", *options)) == ids


def test_a_single_request_is_shown_with_every_column(busy: Operator) -> None:
    lines = busy.does("show-audit", "--request-id", "two").splitlines()
    assert [line.split()[0] for line in lines] == list(AUDIT_COLUMNS)


def test_the_audit_table_shows_code_and_model(busy: Operator) -> None:
    table = busy.does("show-audit")
    assert "budget_exhausted" in table
    assert "llama3.2:latest" in table
    assert "no matching audit rows" in busy.does("show-audit", "--request-id", "nothing")


def test_control_characters_of_a_caller_do_not_reach_the_terminal(busy: Operator) -> None:
    record(busy, "evil", path="/\x1b[2J[red]", tenant="Acme")
    table = busy.does("show-audit")
    assert "\x1b[2J" not in table
    assert "/\\x1b[2J[red]" in table
    record(busy, "hidden", path="/\x9b2J\u202eok\x7f\xfc", tenant="Acme")
    printed = busy.does("show-audit", "--request-id", "hidden", "--json")
    assert "/\\u009b2J\\u202eok\\u007f\xfc" in printed
    assert json.loads(printed)[0]["path"] == "/\x9b2J\u202eok\x7f\xfc"


@pytest.mark.parametrize("as_json", [True, False])
def test_following_shows_each_new_row_once_until_ctrl_c(busy: Operator, as_json: bool) -> None:
    command = [
        sys.executable,
        "-m",
        "ops.cli",
        "--env-file",
        str(busy.env_file),
        "show-audit",
        "--follow",
        "--limit",
        "1",
    ]
    with subprocess.Popen(
        [*command, "--json" if as_json else "--wide"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        # Ends the reads of lines that never come. The assertions then show what came.
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        shown = [process.stdout.readline()]
        # Only rows of the last minutes are new. NOW is the time at which the tests were collected.
        record(busy, "fresh", at=datetime.now(UTC), tenant="Acme")
        shown.append(process.stdout.readline())
        record(busy, "fresher", at=datetime.now(UTC), tenant="Acme")
        shown.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        watchdog.cancel()
    assert (process.returncode, rest, errors) == (130, "", "")
    ids = [json.loads(line)["request_id"] if as_json else line.split()[-1] for line in shown]
    assert ids == ["two", "fresh", "fresher"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show-usage", "--by", "week"], "'week'"),
        (["show-usage", "--since", "yesterday"], "such as 90d"),
        (["show-audit", "--limit", "0"], "0"),
        (["show-audit", "--status", "600"], "such as 429"),
        (["show-audit", "--model", "not a model"], "model name"),
        (["show-audit", "--outcome", "fine"], "complete"),
    ],
)
def test_wrong_usage_names_what_is_expected(operator: Operator, arguments: list[str], reason: str) -> None:
    assert reason in operator.misuses(*arguments)

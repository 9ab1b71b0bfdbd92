"""What `top` shows on terminals of several sizes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ops.cli.top.document import document
from ops.cli.top.rates import DELIVERED_TOKENS, LEASES, REQUESTS, Scrape
from ops.cli.top.screen import screen, shares

REPLICA = "http://gpu-{}.example.internal:11434"


def scrape(at_s: float, tokens: float, denied: float) -> Scrape:
    return Scrape(
        at_s,
        {
            "unix:/run/meter-0-metrics.sock": {
                (DELIVERED_TOKENS, frozenset({("tenant", "acme")})): tokens,
                (LEASES, frozenset()): 2.0,
            },
            "unix:/run/authz-0-metrics.sock": {
                (REQUESTS, frozenset({("surface", "chat"), ("code", "rate_limit_exceeded")})): denied
            },
        },
    )


def example(tenants: int = 3, replicas: int = 2, budgets: int = 2, *, has_queue: bool = True) -> dict[str, Any]:
    """The document of a busy gateway."""
    queue = {
        "backends": [
            {
                "name": "gpu",
                "replicas": [
                    {"url": REPLICA.format(n), "slots": 4, "running": 1, "suspended": n == 1} for n in range(replicas)
                ],
                "waiting": 7,
                "oldest_wait_ms": 2100,
            }
        ],
        "tenants": [
            {"tenant": f"tenant {n}", "weight": 1, "running": 0, "waiting": n, "oldest_wait_ms": 100 * n, "tokens": 5}
            for n in range(tenants)
        ],
    }
    budget = {"scope": "tenant", "tenant": "acme", "prefix": None, "period": "day", "resets_at": None, "reserved": 0}
    urls = [REPLICA.format(n) for n in range(replicas)]
    return document(
        time="2030-01-01T12:34:56Z",
        scrapes=(scrape(0, 0, 0), scrape(58, 100, 1), scrape(60, 177, 4)),
        queue=queue if has_queue else None,
        backends=[{"name": "gpu", "urls": urls, "answers": True, "version": "0.12.0", "models": 3}],
        budgets=[{**budget, "limit": 1000, "used": 100 * n} for n in range(budgets)],
        unavailable=[] if has_queue else ["Redis did not answer within 1 s"],
    )


def lines(shown: dict[str, Any], width: int, height: int = 24, **options: Any) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=width, height=height, **options).print(screen(shown, width, height))
    return output.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_state_is_complete_and_fits_the_width(width: int) -> None:
    shown = lines(example(), width)
    whole = "\n".join(shown)
    assert max(map(cell_len, shown)) <= width
    assert len(shown) <= 24
    assert "2 running, 3 waiting, the oldest for 0.2 s, 1.5 per second" in whole
    assert "38.5 per second" in whole
    for each in ("gpu", "tenant 2", "acme", "38.5", "tenant acme", "10%", "rate_limit_exceeded", "last 60 s"):
        assert each in whole
    assert (REPLICA.format(1) in whole and "0.12.0" in whole) == (width > 80)


def test_a_suspended_replica_is_marked() -> None:
    rows = [line for line in lines(example(), 140) if REPLICA[:11] in line]
    assert ["suspended" in row for row in rows] == [False, True]


def test_busy_tenants_full_budgets_and_recent_denials_come_first() -> None:
    shown = example()
    assert [row["tenant"] for row in shown["tenants"]] == ["tenant 2", "tenant 1", "acme", "tenant 0"]
    assert [row["used"] for row in shown["budgets"]] == [100, 0]
    assert shown["denials"] == [{"code": "rate_limit_exceeded", "recent": 4, "total": 4}]


@pytest.mark.parametrize("height", [10, 16, 24, 50])
def test_rows_beyond_the_height_are_counted_and_no_section_pushes_another_out(height: int) -> None:
    shown = lines(example(tenants=90, replicas=30, budgets=40), 80, height)
    assert len(shown) <= max(height, 16)
    if height >= 24:
        assert sum("more" in line for line in shown) == 3
        assert any("rate_limit_exceeded" in line for line in shown)


def test_without_a_store_the_metrics_remain_and_the_store_is_named() -> None:
    whole = "\n".join(lines(example(has_queue=False), 80))
    assert "Redis did not answer within 1 s" in whole
    assert "38.5 per second" in whole


def test_a_name_cannot_write_to_the_terminal() -> None:
    shown = example()
    shown["tenants"][0]["tenant"] = "\x1b[2Jgone"
    assert "\x1b[2J" not in "\n".join(lines(shown, 80, force_terminal=True))


@given(st.integers(-5, 200), st.lists(st.integers(0, 100), max_size=5))
def test_lines_are_divided_without_loss(available: int, wanted: list[int]) -> None:
    given_lines = shares(available, wanted)
    assert all(got <= want for got, want in zip(given_lines, wanted, strict=True))
    assert sum(given_lines) == min(max(available, 0), sum(wanted))
    unsatisfied = [got for got, want in zip(given_lines, wanted, strict=True) if got < want]
    assert all(got >= max(given_lines) - 1 for got in unsatisfied)

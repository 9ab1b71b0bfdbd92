from __future__ import annotations

import json
from operator import attrgetter

import pytest

from bench import page, plots, table
from bench.measure import Sample
from bench.summary import Samples, headline, own_cpu_us, stores_cpu_us

CPU_US = {"envoy": 20.0, "meter": 30.0, "redis": 5.0, "postgres": 1.0}


def sample(
    side: str, number: int, per_s: float, *, p50_us: float = 100.0, cpu_us: dict[str, float] | None = None
) -> Sample:
    return Sample("W1", side, number, 10, 0, per_s, p50_us, p50_us, CPU_US if cpu_us is None else cpu_us, 1.0, 1.0, {})


def test_a_ratio_compares_the_sides_within_each_round() -> None:
    # A slow second round halves both sides. The ratio of the medians would be 2 / 15.
    rates = [(20, 2), (10, 2), (15, 1.5)]
    rounds = Samples(
        sample(side, number, per_s)
        for number, pair in enumerate(rates)
        for side, per_s in zip(("envoy", "gateway"), pair, strict=True)
    )
    assert rounds.ratio("W1", "gateway", "envoy", attrgetter("per_s")) == pytest.approx(0.1)


def test_a_round_that_only_one_side_has_is_not_compared() -> None:
    rounds = Samples([sample("envoy", 0, 10), sample("gateway", 0, 1), sample("gateway", 1, 100)])
    assert rounds.ratio("W1", "gateway", "envoy", attrgetter("per_s")) == pytest.approx(0.1)
    assert rounds.ratio("W1", "gateway", "direct", attrgetter("per_s")) is None


def test_added_times_are_compared_only_if_both_sides_add_something() -> None:
    p50_us = attrgetter("p50_us")
    added = [sample("direct", 0, 1, p50_us=100), sample("envoy", 0, 1, p50_us=150), sample("gateway", 0, 1, p50_us=300)]
    assert Samples(added).added_ratio("W1", ("gateway", "envoy"), "direct", p50_us) == pytest.approx(4.0)
    none = [sample("direct", 0, 1, p50_us=100), sample("envoy", 0, 1, p50_us=90), sample("gateway", 0, 1, p50_us=300)]
    assert Samples(none).added_ratio("W1", ("gateway", "envoy"), "direct", p50_us) is None


def test_the_cpu_time_of_the_stores_is_separate() -> None:
    measured = sample("gateway", 0, 1)
    assert (own_cpu_us(measured), stores_cpu_us(measured)) == (50.0, 6.0)


def test_the_headline_compares_this_checkout_with_each_side_in_the_same_rounds() -> None:
    samples = Samples([sample("envoy", 0, 20), sample("gateway", 0, 3), sample("baseline", 0, 2)])
    compared = headline(samples, "baseline", [100])
    assert compared["W1 requests/s ÷ plain Envoy"] == pytest.approx(0.1)
    assert compared["W1 requests/s, gateway ÷ this side"] == pytest.approx(1.5)
    assert compared["W1 CPU per request with stores, gateway ÷ this side"] == pytest.approx(1.0)
    assert compared["W3 added p50, µs"] is None


def test_a_run_in_which_the_direct_connection_has_errors_is_marked() -> None:
    names = ["cores", "cpu", "kernel", "python", "date", "rounds", "workers", "load_average"]
    facts: dict[str, object] = dict.fromkeys(names, 1)
    facts |= {"took_s": 1.0, "revisions": {}, "settings": {}, "settings_w5": {}, "skipped": {"litellm": "no disk"}}
    direct = {"generator_cpu_us": 12.5, "upstream_cpu_us": 13.5, "errors": 4}
    document = {"setup": facts, "workloads": [{"name": "W1", "sides": {"direct": direct}}]}
    conditions = "\n".join(table.setup(document))
    assert "W1 is not valid" in conditions
    assert "Not measured: litellm (no disk)." in conditions
    assert "12.5 µs and the upstream 13.5 µs" in conditions


def test_a_bar_is_as_long_as_its_share_of_the_longest() -> None:
    svg = plots.bars("A & B", [("first", {"envoy": 1.0}), ("second", {"envoy": 1.0, "meter": 3.0})])
    assert "A &amp; B" in svg
    assert svg.count('width="125.0"') == 2
    assert svg.count('width="375.0"') == 1


def test_the_generated_part_replaces_only_what_is_between_the_markers() -> None:
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    assert page.replaced(text, "new") == f"before\n{page.BEGIN}\nnew\n{page.END}\nafter\n"


def test_markdown_aligns_numbers_to_the_right() -> None:
    lines = table.markdown(["side", "per s"], [["envoy", "1.00"]]).splitlines()
    assert lines == ["| side | per s |", "| --- | ---: |", "| envoy | 1.00 |"]


def test_the_performance_page_and_its_plots_are_those_of_the_recorded_measurements() -> None:
    """`make bench BENCH_ARGS=--docs` writes all of them; `python -m bench --render FILE --docs` writes them again."""
    document = json.loads((page.FOLDER / "measurements.json").read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.replaced(text, page.generated(document)) == text
    for name, svg in page.charts(document).items():
        assert (page.FOLDER / name).read_text(encoding="utf-8") == svg

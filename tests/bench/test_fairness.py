"""The experiments of the queue: their arithmetic, and a run of a few seconds that proves that they work."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bench.fairness import page
from bench.fairness.__main__ import main
from bench.fairness.arithmetic import Span, busy_share, deviations, gaps_s, jain_index, most_at_once, summary
from bench.fairness.plan import SMOKE
from bench.fairness.run import PARTS


def test_jains_index_is_one_for_equal_values_and_one_nth_for_a_single_owner() -> None:
    assert jain_index([3, 3, 3]) == 1
    assert jain_index([5, 0, 0, 0]) == pytest.approx(1 / 4)
    assert math.isnan(jain_index([0, 0]))


def test_a_deviation_is_relative_to_the_share_of_the_weight() -> None:
    found = deviations({"a": 330.0, "b": 70.0}, {"a": 3, "b": 1})
    assert found == pytest.approx({"a": 0.1, "b": -0.3})
    assert math.isnan(deviations({"a": 0.0}, {"a": 1})["a"])


def test_tokens_count_by_the_part_of_the_time_that_is_measured() -> None:
    span = Span(10.0, 20.0, 50.0)
    assert span.tokens_within(12, 14) == pytest.approx(10)
    assert span.tokens_within(0, 15) == pytest.approx(25)
    assert span.tokens_within(20, 30) == 0
    assert Span(10.0, 10.0, 5.0).tokens_within(10, 11) == 5


def test_slots_are_busy_and_free_as_their_requests_begin_and_end() -> None:
    spans = [Span(0, 4), Span(1, 3), Span(3.5, 6), Span(4.25, 6)]
    assert busy_share(spans, 2, 0, 6) == pytest.approx((4 + 2 + 2.5 + 1.75) / 12)
    assert most_at_once(spans) == 2
    assert gaps_s(spans, 2) == pytest.approx([0.5, 0.25])
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "p99": 3.0, "max": 3.0}


def test_a_request_that_begins_when_another_ends_does_not_run_with_it() -> None:
    assert most_at_once([Span(0, 1), Span(1, 2)]) == 1


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("fairness") / "document.json"
    assert main(["--smoke", "--output", str(file)]) == 0
    return json.loads(file.read_text())


def test_every_request_of_an_experiment_has_one_row_and_runs_at_most_once(document: Any) -> None:
    (shares,) = document["shares"]["result"]
    crowd = document["crowd"]["result"]
    assert shares["rows"] == shares["requests"]
    assert all(each["rows"] == each["sent"] for each in (crowd["waiting"], crowd["hang_ups"]))
    found = [shares, crowd["waiting"], crowd["hang_ups"]]
    assert {each["rows_per_request_max"] for each in found} == {1}
    assert {crowd[name]["runs_per_request_max"] for name in ("waiting", "hang_ups")} == {1}
    assert shares["requests"] > 0


def test_callers_that_leave_never_reach_the_backend_and_all_slots_are_usable(document: Any) -> None:
    left = document["crowd"]["result"]["hang_ups"]
    assert left["reached_backend"] == left["statuses"]["200"]
    assert left["gone_rows"] == SMOKE.leaving
    assert left["slots_usable"] == left["slots"]


def test_the_page_has_a_table_of_each_experiment_and_the_two_plots(document: Any) -> None:
    assert set(document) == set(PARTS)
    text, drawn = page.generated(document), page.charts(document)
    assert text.count("\n| ---") == sum(len(list(page.tables(document, part))) for part in PARTS)
    assert set(drawn) == {"tokens.svg", "waits.svg"}
    assert all(f"(fair-share/{name})" in page.PAGE.read_text() for name in drawn)
    assert ">alice</text>" in drawn["tokens.svg"]


def test_the_page_of_the_documentation_is_that_of_its_measurements() -> None:
    """`python -m bench.fairness --render docs/fair-share/measurements.json --docs` writes the expected page."""
    stored = json.loads((page.FOLDER / "measurements.json").read_text())
    assert page.generated(stored) in page.PAGE.read_text()
    assert {name: (page.FOLDER / name).read_text() for name in page.charts(stored)} == page.charts(stored)

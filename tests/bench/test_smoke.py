"""A run of a few seconds proves that the benchmark works. It compares no times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import page, table
from bench.__main__ import chosen_plan, main, parser
from bench.plan import QUICK, SMOKE
from bench.run import Comparison
from bench.sides.gateway import Checkout
from bench.sides.side import BenchFailed
from bench.workloads import few_keys, many_keys


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("BENCH_AGAINST", raising=False)
        patched.delenv("BENCH_PEERS", raising=False)
        file = tmp_path_factory.mktemp("bench") / "document.json"
        assert main(["--smoke", "--output", str(file)]) == 0
        return json.loads(file.read_text())


def test_every_workload_is_measured_on_every_side_that_it_suits(document: Any) -> None:
    measured = {(sample["workload"], sample["side"]) for sample in document["samples"] if sample["units"]}
    few, many = list(few_keys(SMOKE)), list(many_keys(SMOKE))
    expected = {(workload.name, "gateway") for workload in [*few, *many]}
    assert measured == expected | {
        (workload.name, side) for workload in few if not workload.keyed for side in ("direct", "envoy")
    }


def test_cpu_time_and_memory_are_those_of_every_process_of_the_gateway(document: Any) -> None:
    sample = next(each for each in document["samples"] if (each["workload"], each["side"]) == ("W1", "gateway"))
    processes = {"envoy", "authz", "meter", "control", "redis", "postgres"}
    assert set(sample["cpu_us"]) == set(sample["pss_mb"]) == processes
    assert min(sample["pss_mb"].values()) > 0
    assert min(sample["cpu_us"][name] for name in ("envoy", "authz", "meter", "redis")) > 0


def test_every_good_request_is_answered_during_the_flood(document: Any) -> None:
    sample = next(each for each in document["samples"] if each["workload"] == "W6/flood")
    assert set(sample["flood_per_s"]) <= {"401", "429"}
    assert sample["errors"] == 0


def test_every_table_and_plot_has_a_row_for_the_gateway(document: Any) -> None:
    assert "gateway" in table.headline(document)[0]
    assert any("gateway" in row for row in table.measurements(document)[1])
    assert any("gateway" in row for row in table.memory(document)[1])
    assert all(">gateway" in svg for svg in page.charts(document).values())
    assert "OLLAMA_MAX_CONNECTIONS=1000" in page.generated(document)


def test_options_replace_the_numbers_of_the_plan() -> None:
    chosen = chosen_plan(parser().parse_args(["--quick", "--rounds", "4", "--workers", "1"]))
    assert (chosen.rounds, chosen.workers, chosen.seconds) == (4, 1, QUICK.seconds)


def test_workloads_are_chosen_by_their_name_or_its_first_part() -> None:
    workloads = [*few_keys(QUICK), *many_keys(QUICK)]
    chosen = filter(Comparison(only=("W1", "W2/100", "W5")).includes, workloads)
    assert [workload.name for workload in chosen] == ["W1", "W2/100", "W5/first", "W5/later"]


@pytest.mark.parametrize("name", ["W4/256", "W7", "w1", ""])
def test_an_unknown_workload_is_refused_with_the_names_of_all(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--only", "W1", name])
    assert exited.value.code == 2
    assert f"no workload has the name {name!r}; the names are W1, W2/50" in capsys.readouterr().err


def test_a_baseline_without_an_environment_is_refused_with_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match=r"make \.venv/\.runtime"):
        Checkout.baseline(tmp_path)


def test_a_baseline_may_have_other_settings(tmp_path: Path) -> None:
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    checkout = Checkout.baseline(tmp_path, "HOLD_LEASE_S=60 DEFAULT_RPM=5")
    assert checkout.settings == {"HOLD_LEASE_S": "60", "DEFAULT_RPM": "5"}
    assert checkout.revision() == "unknown HOLD_LEASE_S=60 DEFAULT_RPM=5"

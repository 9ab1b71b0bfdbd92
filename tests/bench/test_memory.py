"""A run of the measurement of memory with a few requests proves that it works. It compares no sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.memory import page
from bench.memory.__main__ import main


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("memory") / "document.json"
    assert main(["--smoke", "--output", str(file)]) == 0
    return json.loads(file.read_text())


def test_the_memory_of_every_process_is_measured_at_every_step(document: Any) -> None:
    names = ["start", "40 requests", "80 requests", "8 idle streams", "after 0 s", "streams closed"]
    assert [each["step"] for each in document["steps"]] == names
    services = {"authz", "meter", "control", "envoy", "redis", "postgres", "up"}
    assert all(set(each["pss_mb"]) == services for each in document["steps"])
    assert min(size for each in document["steps"] for size in each["pss_mb"].values()) > 0


def test_growth_is_that_of_one_request_and_of_one_stream() -> None:
    def step(name: str, size_mb: float, **counted: int) -> dict[str, Any]:
        return {"step": name, "pss_mb": {"meter": size_mb}, **counted}

    steps = [step("start", 10), step("a", 12, requests=10), step("b", 12, requests=100), step("c", 12.9, requests=1000)]
    steps += [step("d", 14.948, streams=20), step("e", 15, streams=20), step("closed", 13)]
    columns, rows = page.growth({"steps": steps})
    assert columns == ["situation", "meter"]
    assert rows == [["each request from 100 to 1,000, bytes", "1000.0"], ["each idle stream, KiB", "100.0"]]


def test_the_page_of_the_documentation_is_that_of_its_measurements() -> None:
    """`python -m bench.memory --render docs/memory/measurements.json --docs` writes the expected page."""
    stored = json.loads(page.STORED.read_text())
    assert page.generated(stored) in page.PAGE.read_text()

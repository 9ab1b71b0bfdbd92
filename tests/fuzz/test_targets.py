"""The fuzzers themselves: every claim holds for the initial inputs, and a broken claim is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import __main__ as runner
from tests.fuzz import targets


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_claim_holds_for_recorded_exchanges_and_for_inputs_that_once_broke_one(
    target: str, subtests: pytest.Subtests
) -> None:
    for seed in targets.seeds(target):
        with subtests.test(seed=seed):
            targets.TARGETS[target](seed)


def test_the_target_names_of_the_command_are_the_existing_targets() -> None:
    assert set(runner.TARGET_NAMES) == set(targets.TARGETS)
    assert {path.name for path in targets.CORPUS.iterdir()} <= set(targets.TARGETS)


def test_a_random_search_finds_and_writes_an_input_that_breaks_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(data: bytes) -> None:
        assert b'"web_search"' not in data

    monkeypatch.setitem(targets.TARGETS, "answers", claim)
    monkeypatch.setattr(runner, "FINDINGS_DIR", tmp_path)
    with pytest.raises(AssertionError):
        runner.search_randomly("answers", seconds=600)
    (finding,) = tmp_path.iterdir()
    assert b'"web_search"' in finding.read_bytes()

"""The fuzzers themselves: what they begin with holds, and they find what is there to be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import __main__ as runner
from tests.fuzz import targets


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_claim_holds_for_recorded_exchanges_and_for_what_once_broke_one(
    target: str, subtests: pytest.Subtests
) -> None:
    for seed in targets.seeds(target):
        with subtests.test(seed=seed):
            targets.TARGETS[target](seed)


def test_the_targets_that_can_be_named_are_those_that_there_are() -> None:
    assert set(runner.TARGET_NAMES) == set(targets.TARGETS)
    assert {path.name for path in targets.CORPUS.iterdir()} <= set(targets.TARGETS)


def test_an_input_that_breaks_a_claim_is_found_by_chance_too_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(data: bytes) -> None:
        assert b'"web_search"' not in data

    monkeypatch.setitem(targets.TARGETS, "answers", claim)
    monkeypatch.setattr(runner, "FOUND", tmp_path)
    with pytest.raises(AssertionError):
        runner.by_chance("answers", seconds=600)
    (kept,) = tmp_path.iterdir()
    assert b'"web_search"' in kept.read_bytes()

import pytest

from ops.simulator.scheduling.prompt_cache import PromptCache, shared_characters


def _evaluate(cache: PromptCache, prompt: str, capacity: int = 1) -> int:
    """Evaluates the prompt. Returns how many characters of it were cached."""
    with cache.take(prompt, capacity) as (cached, shared):
        cached.text = prompt
    return shared


@pytest.mark.parametrize(
    ("first", "second", "length"), [("", "abc", 0), ("abc", "abc", 3), ("abcd", "abce", 3), ("ab", "abcd", 2)]
)
def test_the_shared_part_of_two_texts_is_their_longest_common_prefix(first: str, second: str, length: int) -> None:
    assert shared_characters(first, second) == length


def test_a_prompt_that_continues_the_last_one_is_cached_up_to_there() -> None:
    cache = PromptCache()
    assert _evaluate(cache, "turn one") == 0
    assert _evaluate(cache, "turn one, turn two") == len("turn one")
    assert _evaluate(cache, "something else") == 0
    assert _evaluate(cache, "turn one, turn two, turn three") == 0


def test_each_slot_retains_a_prompt_and_the_least_recently_used_one_is_replaced() -> None:
    cache = PromptCache()
    assert [_evaluate(cache, text, 2) for text in ("aaaa", "bbbb", "aaaaa")] == [0, 0, 4]
    assert _evaluate(cache, "cccc", 2) == 0
    assert [_evaluate(cache, text, 2) for text in ("aaaaaa", "cccccc")] == [5, 4]
    assert _evaluate(cache, "bbbbbb", 2) == 0


def test_a_prefix_of_less_than_a_tenth_is_not_worth_a_slot() -> None:
    cache = PromptCache()
    _evaluate(cache, "ab", 1)
    assert _evaluate(cache, "a" + "x" * 10, 1) == 0


def test_a_prompt_that_a_running_request_uses_is_not_shared() -> None:
    cache = PromptCache()
    _evaluate(cache, "same", 2)
    with cache.take("same", 2) as (_first, shared), cache.take("same", 2) as (_second, shared_again):
        assert (shared, shared_again) == (4, 0)

import pytest

from ops.simulator.generation.request import Tool, Turn, count_prompt_tokens
from tests.ops.simulator.generation.requests import request


@pytest.mark.parametrize("num_predict", [0, -1, -2, -(2**63), 41, 10**9])
def test_no_limit_and_a_limit_above_ten_contexts_are_ten_contexts(num_predict: int) -> None:
    assert request(num_predict=num_predict, num_ctx=4).output_tokens_max == 40


def test_the_prompt_count_includes_turns_images_and_tools() -> None:
    text_only = count_prompt_tokens(request("a b c"))
    assert text_only == 3 + 4
    assert count_prompt_tokens(request(turns=(Turn("user", "a b c", images=2),))) == text_only + 512
    assert count_prompt_tokens(request("a b c", tools=(Tool("t", {}),))) > text_only
    assert count_prompt_tokens(request("word " * 9000)) == 4096

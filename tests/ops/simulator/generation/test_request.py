import pytest

from tests.ops.simulator.generation.requests import request


@pytest.mark.parametrize("num_predict", [0, -1, -2, -(2**63), 41, 10**9])
def test_no_limit_and_a_limit_above_ten_contexts_are_ten_contexts(num_predict: int) -> None:
    assert request(num_predict=num_predict).output_tokens_max(4) == 40

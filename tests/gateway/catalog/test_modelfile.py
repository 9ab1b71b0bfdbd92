from __future__ import annotations

import pytest

from gateway.catalog.modelfile import integer_parameter
from gateway.catalog.snapshot import HostedModel

PARAMETERS = """num_ctx                        2048
num_predict                    12
stop                           "num_predict 5"
temperature                    0.5"""


def test_an_integer_parameter_is_found_by_its_name() -> None:
    assert integer_parameter(PARAMETERS, "num_predict") == 12
    assert integer_parameter(PARAMETERS, "num_ctx") == 2048


@pytest.mark.parametrize("parameters", [None, 5, "", "num_predict", "num_predict x", "num_predict_x 5"])
def test_anything_else_is_no_parameter(parameters: object) -> None:
    assert integer_parameter(parameters, "num_predict") is None


@pytest.mark.parametrize(("value", "tokens"), [(12, 12), (0, None), (-1, None), (-2, None)])
def test_a_cap_in_the_modelfile_that_means_unlimited_is_none(value: int, tokens: int | None) -> None:
    model = HostedModel("m:latest", ("b",), {}, shown={"parameters": f"num_predict {value}"})
    assert model.own_output_tokens == tokens

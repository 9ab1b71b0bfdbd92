"""Errors in the words of each dialect's own clients."""

from __future__ import annotations

import json

import pytest

from gateway.errors import STATUS, Code
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import Dialect


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
@pytest.mark.parametrize("code", Code)
def test_what_the_caller_did_is_called_no_fault_of_the_api(dialect: Dialect, code: Code) -> None:
    kind = json.loads(error_body(dialect, code, "words", "id"))["error"]["type"]
    assert (kind in ("api_error", "overloaded_error")) == (STATUS[code] >= 500)

"""Errors in the vocabulary of each dialect's client libraries."""

from __future__ import annotations

import json

from gateway.errors import STATUS, Code
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import Dialect


def test_exactly_the_5xx_are_errors_of_the_api() -> None:
    each = [(dialect, code) for dialect in (Dialect.OPENAI, Dialect.ANTHROPIC) for code in Code]
    kinds = {(*one, json.loads(error_body(*one, "words", "id"))["error"]["type"]) for one in each}
    faults = {(dialect, code) for dialect, code, kind in kinds if kind in ("api_error", "overloaded_error")}
    assert faults == {(dialect, code) for dialect, code in each if STATUS[code] >= 500}

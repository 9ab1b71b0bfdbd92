"""Nothing passes as 200 that is not an answer of its endpoint: every surface, eleven ways to answer wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.wire.surfaces import Dialect
from tests.e2e.one_worker import BOTH, ONLY, OneWorker
from tests.e2e.wrong_answers import INTERNAL, WrongBackend, render_table, wrong_backend

DOCS = Path(__file__).parents[2] / "docs" / "wrong-answers.md"


@pytest.fixture(scope="module")
def running(one_worker: OneWorker) -> Iterator[WrongBackend]:
    with wrong_backend(one_worker) as started:
        yield started


def error_of(dialect: Dialect, document: dict[str, Any]) -> Any:
    return document["error"] if dialect is Dialect.NATIVE else document["error"]["message"]


def test_a_wrong_answer_is_an_error_in_the_callers_dialect_and_uses_no_tokens(running: WrongBackend) -> None:
    """`python -m tests.e2e.wrong_answers` prints the expected table."""
    cases = running.cases(ONLY)
    for case in cases:
        name = (case.way, case.endpoint.surface.name, case.endpoint.stream)
        response, row, dialect = case.response, case.row, case.endpoint.surface.dialect
        status = 500 if case.way == "its own 500" else 502
        assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), name
        document = response.json()
        assert isinstance(error_of(dialect, document), str), name
        assert INTERNAL not in response.text, name
        assert response.headers["x-gateway-error"] == "backend_error", name
        if dialect is Dialect.OPENAI:
            assert document["error"]["code"] == "backend_error", name
        if dialect is Dialect.ANTHROPIC:
            assert document["request_id"] == response.headers.get("request-id") == row["request_id"], (
                name,
                response.headers,
            )
        assert (row["status"], row["code"], row["outcome"]) == (status, "backend_error", "upstream_error"), name
        assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (0, 0, "none"), name
    written = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert written == render_table(cases).splitlines()


def test_after_a_wrong_answer_another_backend_is_tried(running: WrongBackend) -> None:
    for case in running.cases(BOTH):
        name = (case.way, case.endpoint.surface.name, case.endpoint.stream)
        assert case.response.status_code == 200, (name, case.response.text)
        assert (case.row["backend"], case.row["outcome"]) == ("right", "complete"), name
        assert case.response.headers["content-type"].startswith(case.endpoint.media_type), name

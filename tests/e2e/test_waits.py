"""Clients that wait for a minute, while the other tests of the same stack run.

test_connections.py starts the clients. It is the first file with this stack, and this file is the last one.
"""

from __future__ import annotations

import json
from concurrent.futures import Future

import httpx
import pytest

from tests.e2e.ledger_view import audit_row
from tests.e2e.one_worker import OneWorker
from tests.e2e.retry_after import CODES
from tests.e2e.sockets import Answer
from tests.e2e.test_edge import Edge, check_refused


@pytest.mark.parametrize("code", CODES)
def test_a_client_that_waits_for_retry_after_is_admitted(
    retries: dict[str, Future[tuple[httpx.Response, httpx.Response]]], code: str
) -> None:
    refused, answer = retries[code].result(timeout=120)
    assert refused.headers["x-gateway-error"] == code
    # After throttling, the key is checked again and is still invalid.
    assert answer.status_code == (401 if code == "auth_throttled" else 200), answer.text


def test_a_body_that_arrives_too_slowly_times_out_and_is_recorded(
    one_worker: OneWorker, slow_key: str, slow_body: Future[Answer]
) -> None:
    backends = (one_worker.wrong, one_worker.right)
    edge = Edge(one_worker.stack, slow_key, backends)
    answer = slow_body.result(timeout=180)
    check_refused(edge, answer, 408, "request_timeout")
    assert [backend.requests(answer.request_id) for backend in backends] == [[], []]
    assert json.loads(answer.body)["request_id"] == answer.request_id, "the error has the format of the surface"
    row = audit_row(one_worker.stack, answer.request_id)
    assert (row["path"], row["outcome"], row["status"], row["code"]) == (
        "/v1/messages",
        "denied",
        408,
        "request_timeout",
    )
    assert row["backend"] is None

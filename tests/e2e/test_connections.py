"""A backend that closes a connection just as the next request goes out on it: no request fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.one_worker import CLOSING, OneWorker

# The clients of test_waits.py start here, so that their minute passes while the tests in between run.
pytestmark = pytest.mark.usefixtures("retries", "slow_body")


@pytest.fixture(scope="module")
def key(one_worker: OneWorker) -> str:
    return one_worker.stack.new_key("connections", "--rpm", "1000")


@pytest.mark.parametrize("at_once", [1, 6])
def test_a_backend_that_closes_a_connection_it_has_used_fails_no_request(
    one_worker: OneWorker, key: str, at_once: int
) -> None:
    body = {"model": CLOSING, "stream": False, "messages": [{"role": "user", "content": "Hi"}]}

    def chat(_: int) -> int:
        return httpx.post(f"{one_worker.stack.url}/api/chat", json=body, headers={"x-api-key": key}).status_code

    with ThreadPoolExecutor(at_once) as callers:
        assert list(callers.map(chat, range(24))) == [200] * 24

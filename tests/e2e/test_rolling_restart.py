"""Workers are replaced one after another while requests are served, as in an upgrade."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from typing import Any

import httpx

from tests.e2e.stack import Stack
from tests.polling import eventually

CALLERS = 3
# Without a pause, the callers use the whole machine and the new workers start slowly.
PAUSE_S = 0.02
# A worker may use its whole grace period, and a new worker starts slowly on a busy machine.
REPLACED_TIMEOUT_S = 120.0
MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def test_every_worker_is_replaced_without_a_refused_request(stack: Stack, key: str) -> None:
    statuses: Counter[Any] = Counter()
    stop = threading.Event()

    def call() -> None:
        with httpx.Client(timeout=30, headers={"Authorization": f"Bearer {key}"}) as client:
            while not stop.wait(PAUSE_S):
                for answer in (client.post(f"{stack.url}/api/chat", json=CHAT), client.get(f"{stack.url}/api/tags")):
                    statuses[answer.status_code, answer.headers.get("x-gateway-error")] += 1

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        for service in ("authz", "meter"):
            for worker in (0, 1):
                name = f"{service}-{worker}"
                (old,) = stack.pids(name)
                served = statuses.total()
                os.kill(old, signal.SIGTERM)
                eventually(lambda name=name, old=old: old not in stack.pids(name), REPLACED_TIMEOUT_S)  # type: ignore[misc]
                eventually(lambda service=service: len(stack.healthy_hosts(service)) == 2, REPLACED_TIMEOUT_S)  # type: ignore[misc]
                eventually(lambda served=served: statuses.total() > served + CALLERS)  # type: ignore[misc]
    finally:
        stop.set()
        for caller in callers:
            caller.join(60)
    assert set(statuses) == {(200, None)}, json.dumps({str(each): count for each, count in statuses.items()})

"""Deadlines that two parts must agree on. Pure; a test holds envoy/listener.yaml to them."""

from __future__ import annotations

CHECK_TIMEOUT_S = 4.0
"""How long authz may take for a check.

Envoy waits longer, so that it receives the denial and no hold is left behind.
"""

BODY_TIMEOUT_S = 60.0
"""How long the body of a request may take to arrive."""

BUSY_BACK_OFF_MAX_S = 1.5
"""The longest back-off before a busy server is tried again. The hold filter requests 1 s, and Envoy adds up to half."""

BACKEND_RETRY_S = 2
"""Retry-After when no backend is available. Discovery queries a backend that does not answer this often."""

_ATTEMPT_WAIT_MAX_S = 45.0


def attempt_wait_s(queue_wait_s: float, read_timeout_s: float) -> float:
    """How long a further attempt may wait for a slot, 0 without a queue.

    The attempt has its connection already, and its timeout runs. Servers and proxies commonly close a connection on
    which no request arrives for 60 s.
    """
    return min(queue_wait_s, read_timeout_s / 2, _ATTEMPT_WAIT_MAX_S)

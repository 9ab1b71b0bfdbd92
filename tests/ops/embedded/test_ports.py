"""TCP ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ops.embedded import ports
from ops.embedded.errors import StackError

LOOPBACK = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_kept_is_the_same_while_it_is_free() -> None:
    port = ports.choose(LOOPBACK)
    assert ports.keep_or_choose(LOOPBACK, port, patience_s=0) == port


def test_a_taken_port_is_replaced(taken: int) -> None:
    other = ports.keep_or_choose(LOOPBACK, taken, patience_s=0)
    assert other != taken
    assert ports.obstacle(LOOPBACK, other) is None


def test_a_taken_port_is_refused_by_the_name_of_its_option(taken: int) -> None:
    with pytest.raises(StackError, match=f"--listen {LOOPBACK}:{taken}: another program already listens there"):
        ports.require_free("--listen", LOOPBACK, taken)


def test_an_address_of_another_machine_is_refused_with_the_reason() -> None:
    with pytest.raises(StackError, match=r"--tls 192\.0\.2\.1:443 cannot be bound: "):
        ports.require_free("--tls", "192.0.2.1", 443)

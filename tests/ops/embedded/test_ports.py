"""The choice and the check of TCP ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ops.embedded import ports
from ops.embedded.errors import StackError

LOOPBACK = "127.0.0.1"


@pytest.fixture
def used() -> Iterator[int]:
    """A port in use."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_kept() -> None:
    port = ports.choose_free(LOOPBACK)
    assert ports.keep_or_choose(LOOPBACK, port, wait_s=0) == port


def test_a_port_in_use_is_replaced(used: int) -> None:
    other = ports.keep_or_choose(LOOPBACK, used, wait_s=0)
    assert other != used
    assert ports.bind_error(LOOPBACK, other) is None


def test_the_error_for_a_port_in_use_names_the_option(used: int) -> None:
    with pytest.raises(StackError, match=f"--listen {LOOPBACK}:{used}: another program already listens there"):
        ports.require_free("--listen", LOOPBACK, used)


def test_the_error_for_an_address_of_another_machine_has_the_reason() -> None:
    with pytest.raises(StackError, match=r"--tls 192\.0\.2\.1:443 cannot be bound: "):
        ports.require_free("--tls", "192.0.2.1", 443)

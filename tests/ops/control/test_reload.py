from __future__ import annotations

from typing import Any

import pytest

from gateway.settings import Settings
from gateway.settings.backend import Backend
from ops.control.reload import Change, compare, need_restart, retirement_s


def backends(*entries: str | dict[str, Any]) -> tuple[Backend, ...]:
    named = ({"name": entry} if isinstance(entry, str) else entry for entry in entries)
    return tuple(Backend.model_validate({"base_url": "http://h:1", **each}) for each in named)


def test_the_same_backends_in_the_same_order_are_no_change() -> None:
    assert compare(backends("a", "b"), backends("a", "b")) is None


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (["a"], ["a", "b"], Change(("b",), (), (), ("a", "b"))),
        (["a", "b"], ["b"], Change((), ("a",), (), ("b",))),
        (["a", "b"], ["b", "a"], Change((), (), (), ("b", "a"))),
        (["a"], [{"name": "a", "auth_token": "t"}], Change((), (), ("a",), ("a",))),
        (["a", "b"], ["c", {"name": "a", "auth_token": "t"}], Change(("c",), ("b",), ("a",), ("c", "a"))),
    ],
    ids=["added", "removed", "order", "token", "all"],
)
def test_a_change_contains_the_names_of_its_backends(before: list[Any], after: list[Any], change: Change) -> None:
    assert compare(backends(*before), backends(*after)) == change


def test_a_change_does_not_show_a_token() -> None:
    assert "s3cret" not in repr(compare(backends("a"), backends({"name": "a", "auth_token": "s3cret"})))


def test_all_but_the_backends_needs_a_restart() -> None:
    running = Settings(default_rpm=1, ollama_backends=backends("a"))
    read = Settings(default_rpm=2, ollama_backends=backends("b"), ollama_read_timeout_s=7)
    assert need_restart(running, read) == {"DEFAULT_RPM", "OLLAMA_READ_TIMEOUT_S"}
    taken = running.with_backends_of(read)
    assert (taken.default_rpm, taken.backends) == (1, backends("b"))
    assert need_restart(running, taken) == frozenset()


def test_envoy_keeps_what_is_gone_for_longer_than_a_check_can_last() -> None:
    assert retirement_s(redis_timeout_s=0.5) > 0.5 + 2 * 0.5 + 4.0

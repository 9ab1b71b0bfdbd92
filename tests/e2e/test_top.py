"""`top` on a running stack: a stream that runs, its tokens per second, and a denial."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.queue_stack import QueueStack
from tests.e2e.stack import Stack
from tests.ops.cli.conftest import Operator
from tests.polling import eventually
from tools.terminal import Screen

TOKENS_PER_S = 20
TENANT = "Größe & Co"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def busy(queue_stack: QueueStack) -> Iterator[Stack]:
    """A stack of two workers in which one stream runs, one budget is set and one request was denied."""
    stack = queue_stack.stack
    queue_stack.backend.behave(tokens_per_s=TOKENS_PER_S)
    key = stack.new_key(TENANT)
    stack.cli("set-budget", "--tenant", TENANT, "--daily", "1M")
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "write 20000 words"}]}
    assert httpx.post(f"{stack.url}/api/chat", json={**body, "model": "none"}, headers=headers).status_code == 403
    options = {**body, "options": {"num_predict": 20000}}
    with httpx.stream("POST", f"{stack.url}/api/chat", json=options, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert "content" in next(lines)
        yield stack
    queue_stack.backend.behave()
    queue_stack.backend.wait_until_idle()


def command(stack: Stack, *options: str) -> list[str]:
    env_file = str(Path(stack.ready["env_file"]))
    return [sys.executable, "-m", "ops.cli", "--env-file", env_file, "top", "--interval", "1", *options]


def press_q(screen: Screen) -> None:
    screen.press("q")


def test_json_prints_one_snapshot_with_the_stream_and_its_rate(busy: Stack) -> None:
    def snapshot() -> dict[str, Any] | None:
        found: dict[str, Any] = busy.cli("top", "--interval", "1.5")
        return found if found["tokens_per_second"] else None

    found = eventually(snapshot)
    assert found["requests"]["running"] == 1
    assert 0.4 * TOKENS_PER_S < found["tokens_per_second"] < 2.5 * TOKENS_PER_S
    (tenant,) = found["tenants"]
    assert (tenant["tenant"], tenant["running"], tenant["waiting"]) == (TENANT, 1, 0)
    assert [(each["name"], each["replicas"][0]["running"]) for each in found["backends"]] == [("sim", 1)]
    assert tenant["tokens_per_second"] == found["tokens_per_second"]
    (budget,) = found["budgets"]
    assert (budget["tenant"], budget["limit"]) == (TENANT, 1_000_000)
    assert budget["reserved"] > 0
    assert found["denials"] == [{"code": "model_not_allowed", "recent": 0, "total": 1}]
    assert len(found["processes"]) == 5
    assert found["unavailable"] == []


@pytest.mark.parametrize(
    # All widths are in tests/ops/cli/top/test_screen.py.
    ("columns", "leave"),
    [(80, Screen.interrupt), (140, press_q)],
)
def test_the_screen_shows_the_stream_without_colour_and_restores_the_terminal(
    busy: Stack, columns: int, leave: Callable[[Screen], None]
) -> None:
    with closing(Screen(command(busy), columns, {"NO_COLOR": "1"})) as screen:
        wanted = ("1 running, 0 waiting", TENANT, "model_not_allowed", f"tenant {TENANT}", "sim")
        shown = eventually(
            lambda: text if all(each in (text := ESCAPES.sub("", screen.read())) for each in wanted) else None,
            failure=screen.read,
        )
        assert re.search(r"tokens +\d+\.\d per second", shown)
        assert screen.mode() != screen.mode_before
        leave(screen)
        assert screen.wait(10) == 0
        written = screen.read()
        assert screen.mode() == screen.mode_before
    assert not re.search(r"\x1b\[(3|4|9)\d", written)
    # The alternate screen and the cursor; see xterm's control sequences.
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_a_pipe_gets_a_usage_error(busy: Stack) -> None:
    assert "--json for one snapshot" in Operator(Path(busy.ready["env_file"])).misuses("top")

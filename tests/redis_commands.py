"""The commands that clients and Lua scripts call at a Redis server: how often, and whether their cost is bounded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Set
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

# For each command whose cost depends on the data, the argument that bounds it.
_LIMIT_OF = {"HSCAN": "'COUNT'", "XRANGE": "'COUNT'", "ZRANGEBYSCORE": "'LIMIT'", "ZRANGEBYLEX": "'LIMIT'"}


def unbounded_calls(package: str, bounded: Set[str]) -> list[tuple[str, str]]:
    """The calls, as script and command, whose cost grows with the data, in the folder `lua` of a package.

    `bounded` has the commands whose cost depends only on their arguments, or on the logarithm of the data. Raises
    AssertionError for a call that does not name its command.
    """
    unbounded = []
    for script in (files(package) / "lua").iterdir():
        text = script.read_text("utf-8")
        calls = re.findall(r"redis\.call\('(\w+)'(?=([^\n]*))", text)
        assert len(calls) == text.count("redis.call(")
        unbounded += [
            (script.name, command)
            for command, arguments in calls
            if command not in bounded and (command not in _LIMIT_OF or _LIMIT_OF[command] not in arguments)
        ]
    return unbounded


def total_calls(client: Any) -> Counter[str]:
    """How often clients and scripts have called each command since the last reset, without INFO."""
    calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}
    calls.pop("info", None)
    return Counter(calls)


def script_calls(calls: Counter[str]) -> int:
    """How many of these calls are of scripts, as functions or by their digest."""
    return calls["fcall"] + calls["evalsha"]


@contextmanager
def counted_calls(client: Any) -> Iterator[Counter[str]]:
    """Yields a Counter, which has the calls of each command in the block when the block ends."""
    calls: Counter[str] = Counter()
    client.config_resetstat()
    yield calls
    calls.update(total_calls(client))

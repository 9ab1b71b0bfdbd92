"""CPU time and memory of process trees, from proc(5)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROC = Path("/proc")
_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")

Services = Mapping[str, Iterable[int]]
"""The root processes of each service by its name. Their descendants belong to the same service."""


def cpu_us(services: Services) -> dict[str, float]:
    """The CPU time in µs of each service since its start, without threads that have exited."""
    by_parent = children()
    return {
        name: sum(_own_us(pid) + _exited_children_us(pid) for root in roots for pid in _tree(root, by_parent))
        for name, roots in services.items()
    }


def pss_mb(services: Services) -> dict[str, float]:
    """The proportional set size of each service in MB (10^6 bytes): memory that n processes share counts 1/n for each.

    A process whose `smaps_rollup` may not be read counts as zero.
    """
    by_parent = children()
    return {
        name: sum(_pss_kib(pid) for root in roots for pid in _tree(root, by_parent)) * 1024 / 1e6
        for name, roots in services.items()
    }


def children() -> dict[int, list[int]]:
    """The children of each process, by its id."""
    by_parent: dict[int, list[int]] = defaultdict(list)
    for directory in _PROC.iterdir():
        if directory.name.isdecimal():
            fields = _fields(directory)
            if len(fields) > 1:
                by_parent[int(fields[1])].append(int(directory.name))
    return by_parent


def _tree(root: int, by_parent: Mapping[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found += by_parent.get(pid, [])
    return found


def _own_us(pid: int) -> float:
    """The time on a CPU. Unlike the ticks in `stat`, `schedstat` is exact to the nanosecond."""
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return 0.0
    return sum(int((_read(thread / "schedstat").split() or ["0"])[0]) for thread in threads) / 1000


def _exited_children_us(pid: int) -> float:
    """The time of children that have exited, such as connections of PostgreSQL: fields 16 and 17 of `stat`."""
    fields = _fields(_PROC / str(pid))
    return sum(int(ticks) for ticks in fields[13:15]) * _TICK_US


def _fields(directory: Path) -> list[str]:
    """The fields of `stat` from the third on. The name of the program before them, in parentheses, may hold spaces."""
    return _read(directory / "stat").rpartition(")")[2].split()


def _pss_kib(pid: int) -> int:
    lines = _read(_PROC / str(pid) / "smaps_rollup").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _read(path: Path) -> str:
    """The file's text, empty if the process has exited or the file may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""

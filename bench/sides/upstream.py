"""The upstream, which is also the side `direct`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.sides.side import BenchFailed, Side, process

ROOT = Path(__file__).parents[2]
NAME = "direct"


@contextmanager
def upstream(directory: Path) -> Iterator[Side]:
    """Runs the upstream."""
    # Without the site packages, of which it needs none.
    command = [sys.executable, "-S", "-m", "bench.load.upstream"]
    with process(command, directory / "upstream.log", env=os.environ, directory=ROOT, piped=True) as started:
        line = started.stdout.readline() if started.stdout else ""
        if not line.strip().isdecimal():
            raise BenchFailed(f"the upstream did not start: {(directory / 'upstream.log').read_text()}")
        yield Side(NAME, "127.0.0.1", int(line), lambda: {"upstream": [started.pid]})

"""The command `top`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import rich_click as click
from rich.live import Live

from gateway.stores.postgres import Database
from ops.cli.output import console, print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.top.scrape import listeners
from ops.cli.top.screen import screen
from ops.cli.top.snapshot import Snapshots

_QUIT = frozenset(b"qQ")


@click.command("top")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.5, 60),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two updates, which the rates are measured over.",
)
@click.option(
    "--metrics",
    "addresses",
    multiple=True,
    metavar="ADDRESS",
    help="METRICS_LISTEN of a service: HOST:PORT, or unix:/PATH with wildcards. Repeat it for several. "
    "Default: the services of `up`, or those of AUTHZ_GRPC_TARGETS and METER_GRPC_TARGETS.",
)
@json_option
@pass_session
def top(session: Session, interval_s: float, addresses: tuple[str, ...], as_json: bool) -> None:
    """Show live who runs and waits, tokens per second, budgets, backends and denials.

    q or Ctrl-C quits. With --json, prints one snapshot over one interval and exits.
    """
    if not as_json and not sys.stdout.isatty():
        raise click.UsageError("stdout is not a terminal; use --json for one snapshot")
    settings, directory = session.settings, session.state_dir

    async def work(database: Database) -> None:
        snapshots = Snapshots(settings, database, lambda: listeners(settings, directory, addresses))
        await snapshots.begin()
        if as_json:
            await asyncio.sleep(interval_s)
            return print_json(await snapshots.take())
        with quit_requested() as stop:
            await _show(snapshots, stop, interval_s)
        return None

    session.run(work)


async def _show(snapshots: Snapshots, stop: asyncio.Event, interval_s: float) -> None:
    terminal = console()
    # The alternate screen leaves the scrollback as it is, and `Live` restores the cursor.
    with Live(console=terminal, screen=True, auto_refresh=False) as live:
        pause_s = min(interval_s, 0.5)
        while not await _within(stop, pause_s):
            document = await snapshots.take()
            live.update(screen(document, *terminal.size), refresh=True)
            pause_s = interval_s


async def _within(stop: asyncio.Event, seconds: float) -> bool:
    """Whether `stop` is set within this time."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


@contextmanager
def quit_requested() -> Iterator[asyncio.Event]:
    """An event that is set by q, Ctrl-C or SIGTERM. The mode of the terminal is restored at the end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    descriptor = sys.stdin.fileno() if sys.stdin.isatty() else None
    saved = termios.tcgetattr(descriptor) if descriptor is not None else None

    def read() -> None:
        # A terminal that was closed is readable and returns nothing.
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or _QUIT & set(keys):
            stop.set()

    try:
        if descriptor is not None:
            tty.setcbreak(descriptor)
            loop.add_reader(descriptor, read)
        yield stop
    finally:
        if descriptor is not None and saved is not None:
            loop.remove_reader(descriptor)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

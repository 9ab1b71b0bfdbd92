"""One invocation of the program: its settings, and a database for as long as the command runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import rich_click as click

from gateway.settings import Settings, load
from gateway.stores.postgres import Database

T = TypeVar("T")

# A report reads more rows than a request does. Connecting retains the short deadline of the settings.
COMMAND_TIMEOUT_S = 30.0


class Session:
    """One invocation. `env_file` is the value of `--env-file`, None for the default."""

    def __init__(self, env_file: Path | None) -> None:
        self.env_file = env_file

    @cached_property
    def settings(self) -> Settings:
        """The settings; raises SettingsError."""
        return load(self.env_file)

    def run(self, work: Callable[[Database], Awaitable[T]], *, report: bool = False) -> T:
        """Runs `work` with a database in a new event loop, and returns its result.

        With `report` the database is the one of DATABASE_REPORT_URL, if that is set.
        """

        async def with_database() -> T:
            database = Database(self.settings, command_timeout_s=COMMAND_TIMEOUT_S, report=report)
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(with_database())


pass_session = click.make_pass_decorator(Session)

"""One invocation of the program: its settings, and a database for as long as the command runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import rich_click as click

from gateway.settings import Settings, default_env_file
from gateway.stores.postgres import Database
from ops.cli.settings_notes import load_with_notes
from ops.database.change_origin import change_origin
from ops.embedded import state
from ops.embedded.state import StateDirectory

T = TypeVar("T")

# A report reads more rows than a request does. Connecting retains the short deadline of the settings.
COMMAND_TIMEOUT_S = 30.0

STATE_DIR_NAME = "neuronetz-gateway"
"""The name of the default state directory of `up`, below the home of state."""


class Session:
    """One invocation. `given_env_file` is the value of `--env-file`, None for the default.

    `default_state_dir` is the state directory of an `up` without `--state-dir`.
    """

    def __init__(self, given_env_file: Path | None, default_state_dir: Path) -> None:
        self.given_env_file = given_env_file
        self.default_state_dir = default_state_dir

    @cached_property
    def env_file(self) -> Path | None:
        """The env file in use. A note on stderr names the one of the default state directory."""
        fallback = StateDirectory(self.default_state_dir).env_file
        path = self.given_env_file or default_env_file(fallback)
        if path == fallback and path != self.given_env_file:
            click.echo(f"note: using {_shortened(path)}; --env-file chooses another", err=True)
        return path

    @cached_property
    def settings(self) -> Settings:
        """The settings; raises SettingsError."""
        return load_with_notes(self.env_file)

    @property
    def state_dir(self) -> Path | None:
        """The state directory whose env file is in use, None for a gateway that `up` does not run."""
        directory = self.env_file.absolute().parent if self.env_file else None
        return directory if directory and state.is_state_directory(directory) else None

    @property
    def stopped_up(self) -> str | None:
        """A sentence that names the command to start with, if the gateway in use belongs to an `up` that is stopped."""
        directory = self.state_dir
        if directory is None or state.is_in_use(directory):
            return None
        return f"the gateway of {directory} is not running; start it with: {self.up_command(directory)}"

    def up_command(self, directory: Path) -> str:
        """The command that starts the gateway of this state directory."""
        default = directory == self.default_state_dir.absolute()
        return "neuronetz-gateway up" + ("" if default else f" --state-dir {quote(str(directory))}")

    def run(self, work: Callable[[Database], Awaitable[T]], *, report: bool = False) -> T:
        """Runs `work` with a database in a new event loop, and returns its result.

        With `report` the database is the one of DATABASE_REPORT_URL, if that is set. Changes are recorded as those of
        the command that runs.
        """
        context = click.get_current_context(silent=True)
        origin = change_origin(context.info_name or "" if context else "")

        async def with_database() -> T:
            database = Database(
                self.settings, command_timeout_s=COMMAND_TIMEOUT_S, report=report, local_settings=origin
            )
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(with_database())


# A hidden option, because only gateway.settings reads the environment.
state_home = click.option(
    "--state-home",
    envvar="XDG_STATE_HOME",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("~/.local/state"),
    hidden=True,
)


def _shortened(path: Path) -> str:
    """The path with `~` for the home directory of this user."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def env_file_option(**attributes: Any) -> Callable[[Any], Any]:
    """Adds `--env-file`, which the program accepts before and after the name of a command."""
    return click.option(
        "--env-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Read the settings from this file. Default: $GATEWAY_ENV_FILE, else ./.env, else the one of `up`.",
        **attributes,
    )


def pass_session(function: Any) -> Any:
    """Passes the session as the first argument, and adds `--env-file`."""

    def choose(context: click.Context, _: click.Parameter, path: Path | None) -> None:
        session = context.find_object(Session)
        if path is not None and session is not None:
            session.given_env_file = path

    return env_file_option(expose_value=False, callback=choose)(click.make_pass_decorator(Session)(function))

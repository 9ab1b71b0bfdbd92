"""The top-level command: imports commands on first use, and is the one place that turns errors into exit codes."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

import rich_click as click
from click.exceptions import Exit, NoSuchCommand
from rich_click.rich_panel import RichCommandPanel

from gateway.errors import GatewayError, StoreUnavailable
from ops.cli.examples import EXAMPLES
from ops.cli.session import Session
from ops.cli.suggestions import stray_argument, unknown_command

EXIT_INTERRUPTED = 130
# The arguments of the command, in the context of the program.
_ARGUMENTS = "neuronetz-gateway.arguments"


class CommandGroup(click.RichGroup):
    """A group of the commands in `panels`: panel title -> command name -> `module:attribute`."""

    def __init__(self, *args: Any, panels: dict[str, dict[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._targets = {name: target for commands in panels.values() for name, target in commands.items()}
        for title, commands in panels.items():
            self.add_panel(RichCommandPanel(title, commands=list(commands)))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names of the commands in the order of the help."""
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command; None when no command has that name."""
        if cmd_name not in self._targets:
            return None
        module, _, attribute = self._targets[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        # Two line breaks separate lines in an epilog.
        command.epilog = "\n\n".join(["Examples:", *(f"{ctx.info_name} {each}" for each in EXAMPLES[cmd_name])])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for an unknown command."""
        ctx.meta[_ARGUMENTS] = args[1:]
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand:
            raise click.UsageError(unknown_command(args[0], self.list_commands(ctx)), ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. An expected error is one line on stderr, never a traceback."""
        try:
            return super().invoke(ctx)
        except click.MissingParameter as error:
            if message := stray_argument(error, ctx.meta[_ARGUMENTS]):
                raise click.UsageError(message, error.ctx) from None
            raise
        except KeyboardInterrupt:
            raise Exit(EXIT_INTERRUPTED) from None
        except StoreUnavailable as error:
            message = _explained(error, ctx.find_object(Session))
        except GatewayError as error:
            message = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            message = f"{error.filename or ctx.info_name}: {error.strerror or error}"
        click.echo(f"error: {message}", err=True)
        raise Exit(1)


def _explained(error: StoreUnavailable, session: Session | None) -> str:
    """The error, or its likely cause: the gateway is stopped, or no env file was read."""
    if session is None:
        return str(error)
    if session.env_file is None:
        return f"{error}; no env file was read, so name one with --env-file or GATEWAY_ENV_FILE"
    return session.stopped_up or str(error)

"""The top-level command: imports commands when they are asked for, and is the one place where errors become exits."""

from __future__ import annotations

import errno
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import rich_click as click
from rich_click.rich_panel import RichCommandPanel

from gateway.errors import GatewayError

INTERRUPTED = 130


class CommandGroup(click.RichGroup):
    """A group whose commands are given as `panels`: panel title -> command name -> `module:attribute`."""

    def __init__(self, *args: Any, panels: dict[str, dict[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places: dict[str, str] = {}
        for title, commands in panels.items():
            there = {name: place for name, place in commands.items() if find_spec(place.partition(":")[0])}
            self._places |= there
            self.add_panel(RichCommandPanel(title, commands=list(there)))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command; None when there is none of that name."""
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. What went wrong is one sentence on stderr, never a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except GatewayError as error:
            click.echo(f"error: {error}", err=True)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            click.echo(f"error: {error.filename or ctx.info_name}: {error.strerror or error}", err=True)
        ctx.exit(1)

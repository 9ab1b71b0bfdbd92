"""The top-level command: imports commands when they are asked for, and is the one place where errors become exits."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

import rich_click as click
from click.exceptions import Exit
from rich_click.rich_panel import RichCommandPanel

from gateway.errors import GatewayError, StoreUnavailable
from gateway.settings import default_env_file
from ops.cli.session import Session

INTERRUPTED = 130


class CommandGroup(click.RichGroup):
    """A group whose commands are given as `panels`: panel title -> command name -> `module:attribute`."""

    def __init__(self, *args: Any, panels: dict[str, dict[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = {name: place for commands in panels.values() for name, place in commands.items()}
        for title, commands in panels.items():
            self.add_panel(RichCommandPanel(title, commands=list(commands)))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Names in the order of the help."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (as above)
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
            raise Exit(INTERRUPTED) from None
        except StoreUnavailable as error:
            sentence = f"{error}{_where_settings_are(ctx.find_object(Session))}"
        except GatewayError as error:
            sentence = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            sentence = f"{error.filename or ctx.info_name}: {error.strerror or error}"
        click.echo(f"error: {sentence}", err=True)
        raise Exit(1)


def _where_settings_are(session: Session | None) -> str:
    """What to look at first when a store is away and no env file says where it is."""
    if session is None or session.env_file is not None or default_env_file() is not None:
        return ""
    return "; no env file was read, say which with --env-file or GATEWAY_ENV_FILE"

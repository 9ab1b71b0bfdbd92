"""add-backend, remove-backend, list-backends and probe-ollama: the list of backends, and whether they answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import rich_click as click
from pydantic import SecretStr, ValidationError

from gateway.errors import GatewayError, SettingsError
from gateway.settings import Settings, load, load_file_alone
from gateway.settings.backend import Backend
from ops.backends import env_list
from ops.backends.env_list import Backends, InitialList
from ops.backends.probe import OllamaClient, ProbeError, ProbeResult
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_table, wide_option
from ops.host import env_file

MODELS_SHOWN = 3


class _ProbedReplica(NamedTuple):
    """One replica of a backend and what probing it gave."""

    backend: Backend
    url: str
    result: ProbeResult | ProbeError


# The value of --write-env without FILE, which cannot be typed as a path of an env file by accident.
_IN_USE = Path("(env file in use)")
write_env = click.option(
    "--write-env",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="[FILE]",
    is_flag=False,
    flag_value=str(_IN_USE),
    help="Change OLLAMA_BACKENDS in this env file; without FILE, in the one in use. A control that reads the file "
    "applies the change without a restart.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Print the resulting list and change nothing.")


@click.command("add-backend")
@click.argument("name")
@click.argument("url")
@click.option(
    "--token",
    metavar="TOKEN",
    help="The backend's credential. Prefer --token-file: every user of this machine can see command lines.",
)
@click.option(
    "--token-file",
    type=click.File(),
    metavar="FILE",
    help="Read the credential from this file; `-` reads standard input.",
)
@click.option("--header", metavar="NAME", help="Send the token in this header.  [default: Authorization]")
@click.option("--scheme", metavar="SCHEME", help="The scheme before the token in Authorization.  [default: Bearer]")
@click.option("--ca-file", type=click.Path(path_type=Path), help="Trust this certificate authority, a file in PEM.")
@click.option(
    "--slots",
    metavar="N|auto",
    help="The requests that each replica runs at a time, its OLLAMA_NUM_PARALLEL; `auto` learns it.  [default: auto]",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Change the backend of this name. At an unchanged URL, options that are not given retain their values.",
)
@click.option("--no-validate", is_flag=True, help="Do not probe the backend first.")
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
    slots: str | None,
    replace: bool,
    no_validate: bool,
    write_env: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add an Ollama with the lowest priority, after probing it with exactly the headers that the gateway will send."""
    if token is not None and token_file is not None:
        raise click.UsageError("give either --token or --token-file")
    write_env = _chosen_file(session, write_env)
    settings = _list_settings(session, write_env)
    before = env_list.initial_list(settings) if settings is not None else InitialList(())
    secret = token_file.read().strip() if token_file is not None else token
    options = {
        "auth_token": None if secret is None else SecretStr(secret),
        "auth_header": header,
        "auth_scheme": scheme,
        "ca_file": ca_file.absolute() if ca_file else None,
        "slots": slots,
    }
    fields = {
        "name": name,
        "base_url": url,
        **{field: value for field, value in options.items() if value is not None},
    }
    try:
        backend = env_list.merged(env_list.find(before.backends, name), fields)
    except ValidationError as error:
        raise click.UsageError(_usage_message(error)) from None
    after = env_list.put(before.backends, backend, replace=replace)
    probes = [] if no_validate else _probe_all([backend], _connect_timeout_s(settings))
    for probe in probes:
        if isinstance(probe.result, ProbeError):
            raise GatewayError(f"{name} was not added: {probe.result}. Use --no-validate to skip the probe.")
    _print_note(before.note)
    document = {"probe": _document(probes[0])} if probes else {}
    verb = "replaced" if replace else "added"
    _write_or_print(session, after, write_env, f"{verb} {name}", dry_run=dry_run, as_json=as_json, **document)


@click.command("remove-backend")
@click.argument("name")
@write_env
@dry_run
@json_option
@pass_session
def remove_backend(session: Session, name: str, write_env: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove an Ollama. Its requests in flight finish."""
    write_env = _chosen_file(session, write_env)
    settings = _list_settings(session, write_env)
    if settings is None:
        raise SettingsError(f"the env file {write_env} does not exist; check the path")
    after = env_list.remove(settings, name)
    if not after:
        _print_note(f"the list is empty now, so OLLAMA_BASE_URL applies again: {settings.ollama_base_url}")
    _write_or_print(session, after, write_env, f"removed {name}", dry_run=dry_run, as_json=as_json)


@click.command("list-backends")
@wide_option
@json_option
@pass_session
def list_backends(session: Session, wide: bool, as_json: bool) -> None:
    """List the backends in order of priority. Tokens are shown as ***."""
    rows = [env_list.redacted(backend) for backend in session.settings.backends]
    if as_json:
        return print_json(rows)
    return print_table(
        [
            Column("name"),
            Column("addresses", folds=True),
            Column("token", rank=1),
            Column("header", rank=3),
            Column("ca file", rank=2),
        ],
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
        "no backends",
        wide=wide,
    )


@click.command("probe-ollama")
@wide_option
@json_option
@pass_session
def probe_ollama(session: Session, wide: bool, as_json: bool) -> None:
    """Query the version and models of every replica of every backend, with exactly the headers that the gateway sends.

    Exit code 1 if one of them fails.
    """
    probes = _probe_all(session.settings.backends, session.settings.ollama_connect_timeout_s)
    rows = [_document(probe) for probe in probes]
    if as_json:
        print_json(rows)
    else:
        print_table(
            [
                Column("backend"),
                Column("address"),
                Column("state"),
                Column("version", rank=1),
                Column("models", right=True, rank=2),
                Column("first models", rank=4, folds=True),
                Column("token sent", rank=3),
            ],
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
            "no backends",
            wide=wide,
        )
    if problems := [f"{row['backend']}: {row['problem']}" for row in rows if not row["ok"]]:
        raise GatewayError("; ".join(problems))


def _chosen_file(session: Session, write_env: Path | None) -> Path | None:
    """The file to write: the env file in use for `--write-env` without FILE, None without the option."""
    if write_env != _IN_USE:
        return write_env
    if session.env_file is None:
        raise SettingsError("no env file is in use; name the file: --write-env FILE")
    return session.env_file


def _list_settings(session: Session, write_env: Path | None) -> Settings | None:
    """The settings that hold the list: those of the file to change, None for a new file, else the session's."""
    if write_env is None:
        return session.settings
    return load_file_alone(write_env) if write_env.exists() else None


def _connect_timeout_s(settings: Settings | None) -> float:
    default: float = Settings.model_fields["ollama_connect_timeout_s"].default
    return settings.ollama_connect_timeout_s if settings else default


def _probe_all(backends: Sequence[Backend], connect_timeout_s: float) -> list[_ProbedReplica]:
    """Probes every replica of every backend concurrently; the results are in the order of the configuration."""

    async def probe(client: OllamaClient, backend: Backend, url: str) -> _ProbedReplica:
        try:
            return _ProbedReplica(backend, url, await client.probe(backend, url))
        except ProbeError as error:
            return _ProbedReplica(backend, url, error)

    async def probe_all() -> list[_ProbedReplica]:
        async with aiohttp.ClientSession() as session:
            client = OllamaClient(session, connect_timeout_s)
            return await asyncio.gather(*(probe(client, backend, url) for backend in backends for url in backend.urls))

    return asyncio.run(probe_all())


def _document(probe: _ProbedReplica) -> dict[str, Any]:
    result = probe.result if isinstance(probe.result, ProbeResult) else None
    return {
        "backend": probe.backend.name,
        "url": probe.url,
        "ok": result is not None,
        "version": result and result.version,
        "models": result and len(result.models),
        "some_models": list(result.models[:MODELS_SHOWN]) if result else [],
        "token_sent": probe.backend.credential() is not None,
        "problem": str(probe.result) if result is None else None,
    }


def _write_or_print(
    session: Session,
    after: Backends,
    write_env: Path | None,
    done: str,
    *,
    dry_run: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Writes the list to the env file, or prints the line to put into one. Reports on stderr if nothing was changed."""
    written = write_env if write_env is not None and not dry_run else None
    if written is not None:
        _write(written, after)
    line = env_file.line(env_list.VARIABLE, env_list.redacted_value_of(after))
    if as_json:
        backends = [env_list.redacted(each) for each in after]
        return print_json({"backends": backends, "line": line, "written": written and str(written), **more})
    if written is not None:
        names = ", ".join(each.name for each in after) or "none"
        return click.echo(f"{done}; {written} now lists the backends: {names}")
    if any(each.credential() for each in after):
        _print_note(f"tokens are shown as {env_list.HIDDEN}; use --write-env to write the line with the tokens")
    file = write_env or session.env_file
    remedy = "run it without --dry-run" if dry_run and write_env else "add --write-env" + ("" if file else " FILE")
    _print_note(f"nothing was changed; {remedy} to change {file or 'an env file'}")
    return click.echo(line)


def _write(path: Path, after: Backends) -> None:
    value = env_list.value_of(after)
    try:
        env_file.update(path, {env_list.VARIABLE: value})
    except OSError as error:
        raise GatewayError(
            f"{path} cannot be written ({error.strerror or error}); run this command as the file's owner, on the "
            "machine that has the file, or omit --write-env and insert the line yourself"
        ) from None
    if after and env_list.value_of(load_file_alone(path).ollama_backends) != value:
        raise GatewayError(f"{path} does not read back as it was written; check its line {env_list.VARIABLE}")
    if after and env_list.value_of(load(path).ollama_backends) != value:
        _print_note(f"the environment variable {env_list.VARIABLE} overrides the file wherever it is set")


def _print_note(sentence: str | None) -> None:
    if sentence is not None:
        click.echo(f"note: {sentence}", file=sys.stderr)


def _usage_message(error: ValidationError) -> str:
    """Names the option that is wrong and what is expected, never its value."""
    options = {
        "name": "NAME",
        "base_url": "URL",
        "auth_token": "--token",
        "auth_header": "--header",
        "auth_scheme": "--scheme",
        "ca_file": "--ca-file",
        "slots": "--slots",
    }
    first = error.errors(include_input=False)[0]
    option = options[str(first["loc"][0])] if first["loc"] else "URL"
    return f"{option}: {first['msg'].removeprefix('Value error, ')}"

"""The options that identify a key, and their resolution to its prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rich_click as click

from authz.keys import key_format
from ops.cli.parameters import Name, Prefix
from ops.cli.session import Session
from ops.database.key_lookup import find_prefix
from ops.database.policies import PolicySubject

PREFIX_HELP = "The key: the first characters of its prefix, or its name if --tenant is given."


def key_options(function: Callable[..., Any]) -> Any:
    """Adds `--prefix`, which is required, and `--tenant`; see `resolve_prefix`."""
    function = click.option("--tenant", type=Name(), help="The tenant of the key, if --prefix is a name.")(function)
    return click.option("--prefix", type=Prefix(), required=True, help=PREFIX_HELP)(function)


def resolve_prefix(session: Session, typed: str, tenant: str | None) -> str:
    """The whole prefix of the key that the options identify. Raises UsageError for a name without a tenant."""
    if tenant is None and key_format.is_prefix(typed):
        return typed
    if tenant is None and not typed.startswith(key_format.MARK):
        raise click.UsageError("--prefix: expected the first characters of a key; its name requires --tenant as well")
    return session.run(lambda database: find_prefix(database, typed, tenant))


def resolve_optional(session: Session, typed: str | None, tenant: str | None) -> str | None:
    """As `resolve_prefix`, None for None."""
    return None if typed is None else resolve_prefix(session, typed, tenant)


def subject_options(function: Any) -> Any:
    """Adds `--tenant` and `--prefix`; see `resolve_subject`."""
    function = click.option(
        "--prefix", type=Prefix(), help="Apply to the key that begins so, or to the key of --tenant with this name."
    )(function)
    return click.option("--tenant", type=Name(), help="Apply to this tenant.")(function)


def resolve_subject(session: Session, tenant: str | None, prefix: str | None) -> PolicySubject:
    """The tenant, or the key if `prefix` is given. Raises UsageError when neither is given."""
    if prefix is not None:
        return PolicySubject("key", resolve_prefix(session, prefix, tenant))
    if tenant is None:
        raise click.UsageError("give --tenant, or --prefix for a key")
    return PolicySubject("tenant", tenant)

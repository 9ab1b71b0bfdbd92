"""check-key: whether a text is a well-formed key, without network, database and settings."""

from __future__ import annotations

import rich_click as click
from click.exceptions import Exit

from authz.keys import key_format
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.typed_key import read_typed_key


@click.command("check-key")
@json_option
def check_key(as_json: bool) -> None:
    """Read a key from standard input or a prompt, and check its shape and its check digits, offline.

    A well-formed key need not exist; test-key tries it. Nothing repeats the key. Exit code 1 if it is not well-formed.
    """
    typed = read_typed_key()
    problem, prefix = key_format.problem(typed), key_format.presented_prefix(typed)
    if as_json:
        print_json({"well_formed": problem is None, "prefix": prefix, "problem": problem})
    else:
        click.echo(f"a well-formed key with the prefix {prefix}" if problem is None else f"not a key: {problem}")
    if problem is not None:
        raise Exit(1)

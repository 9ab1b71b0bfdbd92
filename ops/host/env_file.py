"""Env files: reads them and changes values line by line, so that the operator's own lines stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from ops.host.atomic_write import write_atomically

_PLAIN = re.compile(r"[A-Za-z0-9_./:@,%+=-]*")


def read(path: Path) -> dict[str, str]:
    """The values of the file by name; empty when the file does not exist. A name without `=` has an empty value."""
    if not path.exists():
        return {}
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def line(name: str, value: str) -> str:
    """`NAME=value`, quoted where needed, so that a shell and the readers of env files see the same value.

    No quoting suits both when the value has a backslash or single quote and also a `$` or backtick; it is then quoted
    for the readers of env files. Raises ValueError for a value of several lines.
    """
    if "\n" in value:
        raise ValueError(f"{name}: a value in an env file must be a single line")
    if _PLAIN.fullmatch(value):
        return f"{name}={value}"
    if "'" not in value and "\\" not in value:
        return f"{name}='{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'


def merge(text: str, values: Mapping[str, str]) -> str:
    """`text` with the given values: the first assignment of a name is replaced in place, a new name is appended.

    Further assignments of the same name are removed.
    """
    pending = dict(values)
    lines = []
    for old in text.splitlines():
        name = re.sub(r"^\s*(?:export\s+)?", "", old).partition("=")[0].strip()
        if name not in values or "=" not in old:
            lines.append(old)
        elif name in pending:
            lines.append(line(name, pending.pop(name)))
    lines += [line(name, value) for name, value in pending.items()]
    return "".join(f"{each}\n" for each in lines)


def write(path: Path, text: str) -> None:
    """Replaces `path` atomically and durably.

    An existing file keeps its mode and owner, and a symbolic link keeps pointing to it. A new file has mode 0600.
    """
    write_atomically(path.resolve(), text.encode(), keep_owner_and_mode=True, durable=True)


def update(path: Path, values: Mapping[str, str]) -> None:
    """Merges `values` into the file; a file that already has them is not touched."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    current = read(path)
    changed = {name: value for name, value in values.items() if current.get(name) != value}
    if changed:
        write(path, merge(before, changed))

"""The stack's own env file: values are merged in line by line, so that what an operator wrote stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from ops.host.atomic_write import write_atomically

_PLAIN = re.compile(r"[A-Za-z0-9_./:@,%+=-]*")


def read(path: Path) -> dict[str, str]:
    """The file's values by name; empty when there is no file. A name without `=` counts as empty."""
    if not path.exists():
        return {}
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def line(name: str, value: str) -> str:
    """`NAME=value`, quoted when it needs to be: read alike by a shell and by env-file readers.

    What holds both a backslash or single quote and a `$` or backtick has no form that all agree on; env-file readers
    are served then.
    """
    if "\n" in value:
        raise ValueError(f"{name}: a value of an env file is one line")
    if _PLAIN.fullmatch(value):
        return f"{name}={value}"
    if "'" not in value and "\\" not in value:
        return f"{name}='{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'


def merge(text: str, values: Mapping[str, str]) -> str:
    """`text` with the given values: an existing assignment is replaced where it stands, a new one is appended."""
    left = dict(values)
    merged = []
    for old in text.splitlines():
        name = re.sub(r"^\s*(?:export\s+)?", "", old).partition("=")[0].strip()
        if name not in values or "=" not in old:
            merged.append(old)
        elif name in left:
            merged.append(line(name, left.pop(name)))
    merged += [line(name, value) for name, value in left.items()]
    return "".join(f"{each}\n" for each in merged)


def write(path: Path, text: str) -> None:
    """Replaces `path` atomically and durably.

    An existing file keeps its mode and owner, and a symbolic link keeps pointing to it. A new file has mode 0600.
    """
    write_atomically(path.resolve(), text.encode(), keep_owner_and_mode=True, durable=True)


def update(path: Path, values: Mapping[str, str]) -> None:
    """Merges `values` into the file; one that already says the same is left untouched."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    current = read(path)
    changed = {name: value for name, value in values.items() if current.get(name) != value}
    if changed:
        write(path, merge(before, changed))

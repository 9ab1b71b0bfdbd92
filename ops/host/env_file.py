"""Env files: reads them and changes values line by line, so that the operator's own lines stay."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

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
    """Replaces `path` in one step; a reader sees the old or the new one, whole.

    A file that is there keeps its mode and owner, and a link its place; a new one has mode 0600.
    """
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if path.exists():
                _adopt(file.fileno(), path.stat())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _adopt(descriptor: int, known: os.stat_result) -> None:
    os.fchmod(descriptor, stat.S_IMODE(known.st_mode))
    own = os.fstat(descriptor)
    if (known.st_uid, known.st_gid) != (own.st_uid, own.st_gid):
        # Only root may give a file away; others would lock its owner out, and are told so.
        os.fchown(descriptor, known.st_uid, known.st_gid)


def update(path: Path, values: Mapping[str, str]) -> None:
    """Merges `values` into the file; a file that already has them is not touched."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    current = read(path)
    changed = {name: value for name, value in values.items() if current.get(name) != value}
    if changed:
        write(path, merge(before, changed))

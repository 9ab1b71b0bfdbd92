"""Runs the text of the playground's code tabs, each exactly as it is shown, and returns what it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Each program runs in a process with the others of its language, so that clients are imported once. They are separated
# by a NUL on stdout.
_PYTHON = """
import runpy, sys
for path in sys.argv[1:]:
    runpy.run_path(path)
    print("\\0", end="", flush=True)
"""
_JAVASCRIPT = """
for (const path of process.argv.slice(1)) {
  await import(path);
  process.stdout.write("\\0");
}
"""
_SHELL = 'for path in "$@"; do sh "$path"; printf "\\000"; done'
# The command of each kind of code, to which the files are appended, and the ending of their names.
_COMMANDS: dict[str, tuple[list[str], str]] = {
    "curl": (["sh", "-c", _SHELL, "sh"], "sh"),
    "python": ([sys.executable, "-c", _PYTHON], "py"),
    "javascript": (["node", "--input-type=module", "-e", _JAVASCRIPT], "mjs"),
}
_TIMEOUT_S = 180.0
# An endpoint and the name of a code tab.
Tab = tuple[str, str]


def run_all(codes: Mapping[Tab, str], key: str, folder: Path) -> dict[Tab, str]:
    """What each code prints, by its tab. JavaScript is left out where there is no Node.js."""
    kinds = ["curl", "python", *(["javascript"] if shutil.which("node") else [])]
    chosen = [{tab: code for tab, code in codes.items() if _kind(tab[1]) == kind} for kind in kinds]
    with ThreadPoolExecutor() as pool:
        printed = pool.map(_run, kinds, chosen, [key] * len(kinds), [folder] * len(kinds))
    return {tab: text for each in printed for tab, text in each.items()}


def _run(kind: str, codes: Mapping[Tab, str], key: str, folder: Path) -> dict[Tab, str]:
    command, ending = _COMMANDS[kind]
    paths = [folder / f"{number}.{ending}" for number in range(len(codes))]
    for path, code in zip(paths, codes.values(), strict=True):
        path.write_text(code)
    environ = {**os.environ, "GATEWAY_API_KEY": key}
    done = subprocess.run(
        [*command, *map(str, paths)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    *outputs, _ = done.stdout.split("\0")
    return dict(zip(codes, outputs, strict=True))


def _kind(language: str) -> str:
    return language if language in {"curl", "javascript"} else "python"

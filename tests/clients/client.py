"""What the cases know of a client: it performs an action against a gateway and reports a result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.settings import EMBEDDING_MODEL, PROMPT, ROOT, isolated_environment

TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Target:
    """The gateway to call, with a key and a model."""

    url: str
    key: str
    model: str


@dataclass(frozen=True)
class Result:
    """What a client reported. `parts` are the parts of a streamed answer, `error` is None if it reported no error.

    `dimensions` are the numbers of components of embeddings.
    """

    text: str = ""
    parts: int = 0
    models: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Command:
    """A command line with its variables, and the files of the working directory and the home by relative path."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    home_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Client:
    """A client. `command` gives the command line of an action, whose output `read` turns into a result.

    `missing` maps the actions and the cases that it does not offer to the reason. `interrupts` is True for a program
    that a signal stops in the middle of an answer, and False for one that does so itself in the action `abort`.
    """

    name: str
    version: str
    model: str
    command: Callable[[str, Target, Path], Command]
    read: Callable[[int, str, str], Result]
    missing: Mapping[str, str] = field(default_factory=dict)
    interrupts: bool = False

    def start(self, action: str, target: Target, directory: Path) -> subprocess.Popen[str]:
        """Starts an action with its home and its working directory below `directory`."""
        home, work = directory / "home", directory / "work"
        command = self.command(action, target, work)
        for folder, files in ((home, command.home_files), (work, command.files)):
            folder.mkdir(exist_ok=True)
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
        return subprocess.Popen(
            command.arguments,
            cwd=work,
            env={**isolated_environment(home), **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def result(self, process: subprocess.Popen[str]) -> Result:
        """Waits for the end of the process and returns its result."""
        try:
            output, errors = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # Its own children hold the pipes open.
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            return Result(error=f"it did not end within {TIMEOUT_S:.0f} s: {(output + errors)[-300:]}")
        return self.read(process.returncode, output, errors)


def library_command(arguments: tuple[str, ...], **environment: str) -> Callable[[str, Target, Path], Command]:
    """The command line of a library's file, which takes the action as its last argument."""

    def command(action: str, target: Target, _: Path) -> Command:
        settings = {
            "CLIENT_URL": target.url,
            "CLIENT_KEY": target.key,
            "CLIENT_MODEL": target.model,
            "CLIENT_EMBEDDING_MODEL": EMBEDDING_MODEL,
            "CLIENT_PROMPT": PROMPT,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return Command((*arguments, action), {**settings, **environment})

    return command


def read_library(code: int, output: str, errors: str) -> Result:
    """The result in the last line that a library's file printed."""
    if code or not output.strip():
        return Result(error=f"exit code {code}: {errors[-500:]}")
    fields: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    fields.update({name: tuple(value) for name, value in fields.items() if isinstance(value, list)})
    return Result(**fields)


def read_agent(code: int, output: str, errors: str) -> Result:
    """The result of a coding agent: its exit code, and everything that it printed."""
    return Result(text=output, error=f"exit code {code}: {output}\n{errors}" if code else None)

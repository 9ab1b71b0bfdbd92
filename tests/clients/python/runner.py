"""Performs one action of a library and reports its result as JSON, as `javascript/runner.mjs` does.

A library's file has a table of actions, functions from `Settings` to the fields of a result. `run` is its main
program: `python -m tests.clients.python.openai_library chat`, with the settings in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOOL_NAME = "describe_animal"
TOOL_PROMPT = "Use describe_animal"
TOOL_RESULT = "It is a wolpertingerwolpertinger"
TOOL_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@dataclass(frozen=True)
class Settings:
    """What a library needs: the gateway's URL without a path, a key, and the names of models."""

    url: str
    key: str
    model: str
    embedding_model: str
    prompt: str


Action = Callable[[Settings], Mapping[str, Any]]


def perform(actions: Mapping[str, Action], name: str, settings: Settings) -> dict[str, Any]:
    """The result of an action, or `{"error": TEXT}` with what the library raised."""
    try:
        return dict(actions[name](settings))
    except Exception as error:  # noqa: BLE001 - any exception is a result
        return {"error": f"{type(error).__name__}: {error}"}


def run(actions: Mapping[str, Action]) -> None:
    """Performs the action in the first argument and prints its result in the last line."""
    environment = {name: os.environ[f"CLIENT_{name.upper()}"] for name in Settings.__annotations__}
    result = perform(actions, sys.argv[1], Settings(**environment))
    sys.stdout.write(f"\n{json.dumps(result)}\n")

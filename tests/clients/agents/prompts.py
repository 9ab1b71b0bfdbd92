"""The prompts of the coding agents. One lets the agent read a file, by the name and the arguments of its tool."""

from __future__ import annotations

import json

from tests.clients.settings import PROMPT, WORD

NOTE = "note.txt"


def note_file() -> dict[str, str]:
    """The file to read, for `Command.files`."""
    return {NOTE: f"The animal is a {WORD}\n"}


def prompt_of(action: str, tool: str, arguments: dict[str, str]) -> str:
    """The prompt of an action. The simulated Ollama calls the tool that a prompt names, with the arguments in it."""
    return f"Use {tool} {json.dumps(arguments, separators=(',', ':'))}" if action == "tools" else PROMPT

"""Claude Code, on `/v1/messages`."""

from __future__ import annotations

from pathlib import Path

from tests.clients.agents.prompts import NOTE, note_file, prompt_of
from tests.clients.client import Command, Target
from tests.clients.settings import CONTEXT_TOKENS, PROGRAMS


def command(action: str, target: Target, directory: Path) -> Command:
    prompt = prompt_of(action, "Read", {"file_path": str(directory / NOTE)})
    return Command(
        (str(PROGRAMS / "claude"), "-p", prompt, "--allowedTools", "Read"),
        {
            "ANTHROPIC_BASE_URL": target.url,
            "ANTHROPIC_AUTH_TOKEN": target.key,
            "ANTHROPIC_MODEL": target.model,
            "ANTHROPIC_SMALL_FAST_MODEL": target.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
        },
        files=note_file(),
    )

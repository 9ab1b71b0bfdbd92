"""opencode, on `/v1/chat/completions`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.agents.prompts import NOTE, note_file, prompt_of
from tests.clients.client import Command, Target
from tests.clients.settings import CONTEXT_TOKENS, PROGRAMS


def command(action: str, target: Target, directory: Path) -> Command:
    prompt = prompt_of(action, "read", {"filePath": str(directory / NOTE)})
    model = f"gateway/{target.model}"
    limit = {"context": CONTEXT_TOKENS, "output": 8192}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{target.url}/v1", "apiKey": "{env:GATEWAY_API_KEY}"},
        "models": {target.model: {"limit": limit}},
    }
    configuration = {
        "autoupdate": False,
        "share": "disabled",
        "model": model,
        "small_model": model,
        "provider": {"gateway": provider},
    }
    return Command(
        # It quotes an argument with blanks, and the arguments of the call would be no JSON.
        (str(PROGRAMS / "opencode"), "run", *prompt.split()),
        {
            "GATEWAY_API_KEY": target.key,
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        },
        files={**note_file(), "opencode.json": json.dumps(configuration)},
    )

"""Qwen Code, on `/v1/chat/completions`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.agents.prompts import NOTE, note_file, prompt_of
from tests.clients.client import Command, Target
from tests.clients.settings import PROGRAMS

_SETTINGS = {
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
}


def command(action: str, target: Target, directory: Path) -> Command:
    prompt = prompt_of(action, "read_file", {"file_path": str(directory / NOTE)})
    return Command(
        (str(PROGRAMS / "qwen"), "--auth-type", "openai", "--approval-mode", "yolo", prompt),
        {
            "OPENAI_BASE_URL": f"{target.url}/v1",
            "OPENAI_API_KEY": target.key,
            "OPENAI_MODEL": target.model,
            "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1",
        },
        files=note_file(),
        home_files={".qwen/settings.json": json.dumps(_SETTINGS)},
    )

"""Codex, on `/v1/responses`."""

from __future__ import annotations

from pathlib import Path

from tests.clients.agents.prompts import NOTE, note_file, prompt_of
from tests.clients.client import Command, Target
from tests.clients.settings import CONTEXT_TOKENS, PROGRAMS

_CONFIGURATION = """\
model = "{model}"
model_provider = "gateway"
model_context_window = {context}
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
env_key = "GATEWAY_API_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


def command(action: str, target: Target, directory: Path) -> Command:
    prompt = prompt_of(action, "exec_command", {"cmd": f"cat {directory / NOTE}"})
    program = (str(PROGRAMS / "codex"), "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access")
    configuration = _CONFIGURATION.format(model=target.model, url=target.url, context=CONTEXT_TOKENS)
    return Command(
        (*program, prompt),
        {"GATEWAY_API_KEY": target.key},
        files=note_file(),
        home_files={".codex/config.toml": configuration},
    )

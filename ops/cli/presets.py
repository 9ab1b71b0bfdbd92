"""Named sets of limits for `--preset`. Single options take precedence over them."""

from __future__ import annotations

from ops.database.policies import PolicyChange

PRESETS: dict[str, PolicyChange] = {
    # People who chat: short answers, a photo now and then.
    "chat": {"rpm": 60, "tpm": 100_000, "concurrent": 8, "max_output": 4096, "max_body": 8 << 20},
    # Coding agents send the whole conversation each time, request 32,000 output tokens, and work in parallel.
    "agents": {"rpm": 300, "tpm": 2_000_000, "concurrent": 16, "max_output": 32_768, "max_body": 32 << 20},
    # Programs that work through a list, such as embeddings of a corpus.
    "batch": {"rpm": 600, "tpm": 1_000_000, "concurrent": 4, "max_output": 4096, "max_body": 32 << 20},
}


def describe() -> str:
    """The presets and their values, for the help."""
    return "; ".join(
        f"{name}: " + ", ".join(f"--{option.replace('_', '-')} {value}" for option, value in preset.items())
        for name, preset in PRESETS.items()
    )

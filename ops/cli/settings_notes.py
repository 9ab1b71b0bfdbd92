"""Loads settings for a command, with notes on stderr about mistakes that do not make them invalid."""

from __future__ import annotations

import logging
from pathlib import Path

import rich_click as click

from gateway.settings import Settings, load, misspelt_names

_LINES_SHOWN = 5


class _UnreadableLines(logging.Handler):
    """Collects the numbers of the lines that python-dotenv reports one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.numbers.extend(str(number) for number in record.args)


def load_with_notes(env_file: Path | None) -> Settings:
    """The settings; raises SettingsError. Notes name lines that are no assignments, and misspelt settings."""
    handler, logger = _UnreadableLines(), logging.getLogger("dotenv.main")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        settings = load(env_file)
        numbers = list(dict.fromkeys(handler.numbers))
        misspelt = misspelt_names(env_file)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    if numbers:
        listed = ", ".join(numbers[:_LINES_SHOWN]) + (", …" if len(numbers) > _LINES_SHOWN else "")
        click.echo(f"note: {env_file} has lines that are not NAME=value: {listed}", err=True)
    for name, meant in misspelt.items():
        click.echo(f"note: there is no setting {name}; did you mean {meant}?", err=True)
    return settings

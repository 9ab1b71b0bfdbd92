"""Reads YAML with the parser of libyaml, which is ten times as fast as the one in Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml


def load_yaml(text: str | bytes) -> Any:
    """Returns the document of `text`, like yaml.safe_load."""
    return yaml.load(text, yaml.CSafeLoader)


def load_all_yaml(text: str | bytes) -> Iterator[Any]:
    """Yields each document of `text`, like yaml.safe_load_all."""
    return iter(yaml.load_all(text, yaml.CSafeLoader))

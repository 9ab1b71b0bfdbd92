"""The answer of `/api/show` for a model, reduced to the fields that a tenant may read. Pure.

Modelfile, system prompt, template, example messages and licence belong to the operator, and the vocabulary in a model's
metadata is too large. So fields are selected by name, and metadata only if it is a short plain value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIELDS_MAX = 256
_TEXT_CHARACTERS_MAX = 256
_PARAMETERS_CHARACTERS_MAX = 4096


def described(show: Mapping[str, Any]) -> dict[str, Any]:
    """`model_info`, always, and `projector_info` and `parameters` if the model has them."""
    shown: dict[str, Any] = {"model_info": _plain(show.get("model_info"))}
    if projector := _plain(show.get("projector_info")):
        shown["projector_info"] = projector
    parameters = show.get("parameters")
    if isinstance(parameters, str) and 0 < len(parameters) <= _PARAMETERS_CHARACTERS_MAX:
        shown["parameters"] = parameters
    return shown


def _plain(info: object) -> dict[str, str | int | float]:
    fields = info.items() if isinstance(info, dict) else ()
    return dict([(key, value) for key, value in fields if _is_plain(key, value)][:_FIELDS_MAX])


def _is_plain(key: str, value: object) -> bool:
    if "template" in key or "prompt" in key:
        return False
    return len(value) <= _TEXT_CHARACTERS_MAX if isinstance(value, str) else isinstance(value, int | float)

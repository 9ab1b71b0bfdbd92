"""The answer of `/api/show` for a model, without the parts that a tenant may not read. Pure.

System prompt, template, Modelfile and the example messages, which are a part of it, belong to the operator. The list of
tensors and the vocabulary in a model's metadata are too large for the catalog. Fields are selected by name, so that a
field of a later release of Ollama is not shown unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIELDS_MAX = 256
_TEXT_CHARACTERS_MAX = 256
_PARAMETERS_CHARACTERS_MAX = 4096
_LICENSE_CHARACTERS_MAX = 32_768
_CAPABILITIES_MAX = 32


def described(show: Mapping[str, Any]) -> dict[str, Any]:
    """`model_info`, always, and the other fields that callers see, if the model has them.

    These are `license`, `parameters`, `details`, `projector_info` and `capabilities`. The catalog has `modified_at`
    from /api/tags, because models with the same digest may differ in it.
    """
    shown: dict[str, Any] = {"model_info": _plain(show.get("model_info"))}
    for field, characters_max in (("license", _LICENSE_CHARACTERS_MAX), ("parameters", _PARAMETERS_CHARACTERS_MAX)):
        text = show.get(field)
        if isinstance(text, str) and 0 < len(text) <= characters_max:
            shown[field] = text
    if details := _details(show.get("details")):
        shown["details"] = details
    if projector := _plain(show.get("projector_info")):
        shown["projector_info"] = projector
    if isinstance(show.get("capabilities"), list):
        shown["capabilities"] = _texts(show["capabilities"])
    return shown


def _plain(info: object) -> dict[str, str | int | float]:
    fields = info.items() if isinstance(info, dict) else ()
    return dict([(key, value) for key, value in fields if _is_plain(key, value)][:_FIELDS_MAX])


def _details(details: object) -> dict[str, Any]:
    families = details.get("families") if isinstance(details, dict) else None
    return {**_plain(details), **({"families": _texts(families)} if isinstance(families, list) else {})}


def _texts(values: list[Any]) -> list[str]:
    texts = [value for value in values if isinstance(value, str) and len(value) <= _TEXT_CHARACTERS_MAX]
    return texts[:_CAPABILITIES_MAX]


def _is_plain(key: str, value: object) -> bool:
    if "template" in key or "prompt" in key:
        return False
    return len(value) <= _TEXT_CHARACTERS_MAX if isinstance(value, str) else isinstance(value, int | float)

from __future__ import annotations

from typing import Any

import pytest

from gateway.request.ollama_options import check_options
from gateway.wire.surfaces import SURFACES, Dialect


def refusals(document: dict[str, Any]) -> dict[str, str]:
    """The sentences of the surfaces that refuse the document."""
    found = {}
    for surface in SURFACES:
        try:
            check_options(surface, document)
        except ValueError as error:
            found[surface.name] = str(error)
    return found


NATIVE = {surface.name for surface in SURFACES if surface.dialect is Dialect.NATIVE}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stop": "e"}, "the field 'options.stop' must be a list of strings"),
        ({"stop": [1]}, "the field 'options.stop' must be a list of strings"),
        ({"temperature": "hot"}, "the field 'options.temperature' must be a number"),
        ({"seed": True}, "the field 'options.seed' must be a number"),
        ({"top_p": []}, "the field 'options.top_p' must be a number"),
    ],
)
def test_an_option_that_ollama_refuses_with_a_500_is_refused_before(options: dict[str, Any], sentence: str) -> None:
    """W18 of the comparison with the real Ollama."""
    assert refusals({"options": options}) == dict.fromkeys(NATIVE, sentence)


@pytest.mark.parametrize("format_", ["xml", "JSON", 5, [], True])
def test_a_format_that_is_neither_json_nor_a_schema_is_refused(format_: object) -> None:
    sentence = "the field 'format' must be 'json' or a JSON schema, which is an object"
    assert refusals({"format": format_}) == dict.fromkeys(("chat", "generate"), sentence)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"options": None, "format": None},
        {"options": {"stop": None, "seed": 1, "temperature": 0.5, "unknown": "x"}, "format": ""},
        {"options": {"stop": ["a"], "top_k": 1.0}, "format": "json"},
        {"format": {"type": "object"}},
    ],
)
def test_what_ollama_reads_passes(document: dict[str, Any]) -> None:
    assert refusals(document) == {}

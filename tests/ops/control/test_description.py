from __future__ import annotations

import json

from ops.control.description import described

SECRET = "the pass phrase"


def test_nothing_of_the_operators_own_words_is_shown() -> None:
    operators = {
        "modelfile": SECRET,
        "template": SECRET,
        "system": SECRET,
        "messages": [{"role": "system", "content": SECRET}],
        "tensors": [{"name": SECRET}],
        "renderer": SECRET,
        "something_new": {"system": SECRET},
        "model_info": {"tokenizer.chat_template": SECRET, "general.system_prompt": SECRET, "nested": {"x": SECRET}},
    }
    assert described(operators) == {"model_info": {}}
    assert SECRET not in json.dumps(described(operators))


def test_plain_metadata_is_shown_and_vocabularies_are_not() -> None:
    info = {"general.architecture": "llama", "llama.context_length": 8192, "tokenizer.ggml.tokens": ["a"], "x": None}
    shown = described({"model_info": info, "projector_info": {"clip.has": True}, "parameters": 'stop "<|end|>"'})
    assert shown == {
        "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
        "projector_info": {"clip.has": True},
        "parameters": 'stop "<|end|>"',
    }


def test_what_ollama_shows_of_the_model_itself_is_shown() -> None:
    """W26 of the comparison with the real Ollama, whose /api/tags gives an embedding model other capabilities."""
    shown = {
        "license": "MIT",
        "parameters": "num_ctx                        2048",
        "details": {"family": "nomic-bert", "families": ["nomic-bert"], "parameter_size": "137M"},
        "model_info": {"general.architecture": "nomic-bert"},
        "projector_info": {"clip.has": True},
        "capabilities": ["embedding"],
    }
    assert described({**shown, "template": SECRET, "modified_at": "2026-01-01T00:00:00Z"}) == shown


def test_what_is_shown_is_bounded() -> None:
    info = {"long": "x" * 10_000, **{f"k{number}": number for number in range(10_000)}}
    long = "x" * 1_000_000
    texts = {"capabilities": [long, *["c"] * 10_000], "details": {"family": long, "families": [long]}}
    shown = described({"model_info": info, "parameters": long, "license": long, **texts})
    assert len(json.dumps(shown)) < 20_000


def test_an_answer_of_another_shape_shows_nothing() -> None:
    assert described(
        {"model_info": ["a"], "projector_info": "b", "parameters": 5, "details": 1, "capabilities": "x"}
    ) == {"model_info": {}}

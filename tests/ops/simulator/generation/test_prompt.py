import pytest

from ops.simulator.generation.prompt import ContextExceeded, ContextNotShiftable, fit_prompt, render
from ops.simulator.generation.request import Tool, Turn
from tests.ops.simulator.generation.requests import request

LONG = "word " * 3000


def test_the_prompt_count_includes_turns_images_and_tools() -> None:
    text_only = render(request("a b c")).tokens
    assert text_only == 3 + 4
    assert render(request(turns=(Turn("user", "a b c", images=2),))).tokens == text_only + 512
    assert render(request("a b c", tools=(Tool("t", {}),))).tokens > text_only
    assert render(request("a b c", raw=True)).tokens == 3


def test_a_prompt_that_exceeds_the_context_leaves_half_of_it_free() -> None:
    """As recorded from Ollama: 1027 tokens of a longer prompt at a context of 2048."""
    prompt = fit_prompt(request(LONG), 2048)
    assert prompt.tokens == 1027
    assert prompt.text.startswith("<|u>word")
    assert prompt.text.endswith("word ")
    assert len(prompt.text) < len(LONG)
    assert fit_prompt(request(LONG, endpoint="generate", raw=True), 2048).tokens == 1027


def test_a_chat_loses_its_old_turns_before_it_loses_tokens() -> None:
    turns = (Turn("system", "Be brief"), Turn("user", LONG), Turn("assistant", "yes"), Turn("user", "And now"))
    prompt = fit_prompt(request(turns=turns), 2048)
    assert prompt.text == "<|s>Be brief<|a>yes<|u>And now"
    assert prompt == render(request(turns=(turns[0], *turns[2:])))


def test_a_prompt_that_fits_is_unchanged() -> None:
    for prompt in (request("a b c"), request("a b c", truncate=False), request("a b c", shift=False)):
        assert fit_prompt(prompt, 8) == render(prompt)


def test_a_request_can_forbid_that_its_prompt_is_shortened() -> None:
    with pytest.raises(ContextExceeded) as exceeded:
        fit_prompt(request(LONG, truncate=False), 2048)
    assert (exceeded.value.prompt_tokens, exceeded.value.num_ctx) == (render(request(LONG)).tokens, 2048)
    with pytest.raises(ContextNotShiftable):
        fit_prompt(request(LONG, shift=False), 2048)

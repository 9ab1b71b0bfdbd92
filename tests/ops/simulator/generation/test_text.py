from hypothesis import given
from hypothesis import strategies as st

from ops.simulator.generation.text import tokenise


@given(st.text())
def test_the_joined_tokens_are_the_text(text: str) -> None:
    assert "".join(tokenise(text)) == text

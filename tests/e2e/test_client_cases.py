"""The libraries for Python in the cases of `make clients`, without a process for each."""

from __future__ import annotations

import pytest

from tests.clients.cases import CASES, Case
from tests.clients.client import Result
from tests.clients.gateway import Gateway
from tests.clients.python import anthropic_library, ollama_library, openai_library
from tests.clients.python.runner import Action, Settings, perform
from tests.clients.settings import EMBEDDING_MODEL, MODEL, PROMPT
from tests.e2e.stack import Simulator, Stack

LIBRARIES = {
    "openai": openai_library.ACTIONS,
    "ollama": ollama_library.ACTIONS,
    "anthropic": anthropic_library.ACTIONS,
}


@pytest.fixture(scope="module")
def gateway(stack: Stack, ollama: Simulator) -> Gateway:
    return Gateway.of(stack, ollama)


# How failures look to these libraries is in `test_client_errors.py`.
@pytest.mark.parametrize("case", [case for case in CASES if not case.behaviour], ids=lambda case: case.name)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_for_python_does_what_the_case_requires(
    gateway: Gateway, ollama: Simulator, monkeypatch: pytest.MonkeyPatch, library: str, case: Case
) -> None:
    # The Ollama library reads the key there.
    monkeypatch.setenv("OLLAMA_API_KEY", "")
    actions: dict[str, Action] = LIBRARIES[library]
    if case.action not in actions:
        assert (library, case.action) == ("anthropic", "embed")
        return
    key = getattr(gateway, case.key)
    settings = Settings(gateway.stack.url, key, case.model or MODEL, EMBEDDING_MODEL, PROMPT)
    fields = perform(actions, case.action, settings)
    fields.update({name: tuple(value) for name, value in fields.items() if isinstance(value, list)})
    assert case.judge(Result(**fields), gateway) == ""

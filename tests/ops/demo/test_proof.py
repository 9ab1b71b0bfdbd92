"""The demo's proof says no when the books and the truth differ."""

from __future__ import annotations

from typing import Any

import pytest

from ops.demo import proof
from ops.demo.proof import Account, Streamed

CHAT = proof.native("http://gateway", "hello")
ROW = {"input_tokens": 3, "output_tokens": 5, "outcome": "complete"}
RECORD = {"prompt_tokens": 3, "output_tokens": 5}


def _account(complete: bool = True, row: Any = ROW, backend: Any = RECORD) -> Account:
    return Account(Streamed(CHAT, "id", complete), row, backend)


def test_books_that_agree_have_no_fault() -> None:
    assert _account().faults() == []


@pytest.mark.parametrize(
    ("account", "fault"),
    [
        (_account(complete=False), "the stream ended early"),
        (_account(row=None), "it left no usage row"),
        (_account(backend=None), "the backend never saw it"),
        (_account(row={**ROW, "output_tokens": 4}), "booked (3, 4)"),
        (_account(row={**ROW, "outcome": "cut"}), "its outcome is cut"),
    ],
)
def test_every_difference_is_a_fault(account: Account, fault: str) -> None:
    assert len(account.faults()) == 1
    assert fault in account.faults()[0]


def test_text_and_end_are_read_from_both_surfaces() -> None:
    native, openai = proof.native("", ""), proof.openai("", "")
    assert native.text_of('{"message":{"content":"a"},"done":false}') == "a"
    assert native.text_of('{"done":true}') == ""
    assert native.is_last('{"done":true}')
    assert not native.is_last('{"done":false}')
    assert openai.text_of('data: {"choices":[{"delta":{"content":"a"}}]}') == "a"
    assert openai.text_of('data: {"choices":[{"delta":{"content":null}}]}') == ""
    assert openai.text_of('data: {"choices":[]}') == ""
    assert openai.text_of("data: [DONE]") == openai.text_of(": a comment") == ""
    assert openai.is_last("data: [DONE]")


def test_an_error_frame_is_not_the_end() -> None:
    assert not proof.native("", "").is_last('{"error":"cut"}')
    assert not proof.openai("", "").is_last('data: {"error":{"message":"cut"}}')

from __future__ import annotations

from typing import Any

import pytest

from ops.demo.proof import Comparison, StreamedAnswer, native_chat, openai_chat

CHAT = native_chat("http://gateway", "hello")
ROW = {"input_tokens": 3, "output_tokens": 5, "outcome": "complete"}
RECORD = {"prompt_tokens": 3, "output_tokens": 5}


def _comparison(complete: bool = True, audit_row: Any = ROW, backend_record: Any = RECORD) -> Comparison:
    return Comparison(StreamedAnswer(CHAT, "id", complete), audit_row, backend_record)


def test_equal_counts_are_no_discrepancy() -> None:
    assert _comparison().discrepancies() == []


@pytest.mark.parametrize(
    ("comparison", "discrepancy"),
    [
        (_comparison(complete=False), "the stream ended early"),
        (_comparison(audit_row=None), "it has no audit row"),
        (_comparison(backend_record=None), "the backend did not receive it"),
        (_comparison(audit_row={**ROW, "output_tokens": 4}), "the row has (3, 4)"),
        (_comparison(audit_row={**ROW, "outcome": "cut"}), "its outcome is cut"),
    ],
)
def test_every_difference_is_a_discrepancy(comparison: Comparison, discrepancy: str) -> None:
    assert len(comparison.discrepancies()) == 1
    assert discrepancy in comparison.discrepancies()[0]


def test_both_surfaces_recognise_text_and_the_last_line() -> None:
    native, openai = native_chat("", ""), openai_chat("", "")
    assert native.text_of('{"message":{"content":"a"},"done":false}') == "a"
    assert native.text_of('{"done":true}') == ""
    assert native.is_last('{"done":true}')
    assert not native.is_last('{"done":false}')
    assert openai.text_of('data: {"choices":[{"delta":{"content":"a"}}]}') == "a"
    assert openai.text_of('data: {"choices":[{"delta":{"content":null}}]}') == ""
    assert openai.text_of('data: {"choices":[]}') == ""
    assert openai.text_of("data: [DONE]") == openai.text_of(": a comment") == ""
    assert openai.is_last("data: [DONE]")


def test_an_error_frame_is_not_the_last_line() -> None:
    assert not native_chat("", "").is_last('{"error":"cut"}')
    assert not openai_chat("", "").is_last('data: {"error":{"message":"cut"}}')

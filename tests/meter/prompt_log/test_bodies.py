"""Texts in bodies are changed wherever they are, and the bodies remain JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.personal_data import PersonalData
from meter.prompt_log.bodies import change_texts
from meter.prompt_log.redaction import Redactor
from tests.meter.wire_corpus import transcripts

redact = Redactor(list(PersonalData)).redact
CARD = "4111111111111111"
MARK = "[redacted: card]"

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def test_escaped_texts_names_and_numbers_are_changed_and_the_body_remains_json() -> None:
    body = '{"a": "x \\u0061da\\u0040example.com", "' + CARD + '": [' + CARD + ", 1.50, true, null]}"
    assert json.loads(change_texts(body, redact)) == {"a": "x [redacted: email]", MARK: [MARK, 1.5, True, None]}


def test_a_text_that_frames_divide_is_changed_as_a_whole() -> None:
    ndjson = [{"model": "m", "message": {"role": "assistant", "content": part}, "done": False} for part in _pieces()]
    sse = [f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': part}}]})}\n" for part in _pieces()]
    for body in ("".join(json.dumps(each) + "\n" for each in ndjson), "\n".join([*sse, "data: [DONE]\n", ""])):
        changed = change_texts(body, redact)
        assert MARK in changed
        assert not any(digits in changed for digits in ("4111", "1111"))
        assert changed.count("\n") == body.count("\n")
    assert changed.startswith(
        'data: {"choices": [{"index": 0, "delta": {"content": "Pay with [redacted: card] now"}}]}'
    )
    assert changed.endswith("data: [DONE]\n\n")


def test_texts_of_different_blocks_are_not_joined() -> None:
    frames = [
        {"type": "content_block_delta", "index": index, "delta": {"text": part}} for index, part in enumerate(_pieces())
    ]
    body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
    assert change_texts(body, redact) == body


def test_a_frame_that_was_cut_is_changed_as_text() -> None:
    assert (
        change_texts('{"response": "a"}\n{"response": "' + CARD, redact) == '{"response": "a"}\n{"response": "' + MARK
    )


def test_a_deep_document_is_changed_as_one_text() -> None:
    deep = "[" * 700 + f'"{CARD}"' + "]" * 700
    assert change_texts(deep, redact) == deep.replace(CARD, MARK)


def test_recorded_answers_without_items_keep_their_bytes() -> None:
    for exchange in transcripts():
        body = exchange.body.decode()
        assert change_texts(body, lambda text: text) == body


@given(documents)
def test_a_document_is_the_same_when_nothing_changes(document: object) -> None:
    body = json.dumps(document)
    assert change_texts(body, lambda text: text) == body


def _pieces() -> list[str]:
    return ["Pay", " with 41", "11 ", "1111 1111", " 1111", " now"]

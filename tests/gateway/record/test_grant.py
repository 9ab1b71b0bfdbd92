from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from gateway.record.grant import Grant
from gateway.record.request import RequestRecord, record_fields
from gateway.wire.surfaces import BY_NAME
from tests.meter.wire_corpus import grant_for, json_of

GRANT = grant_for(BY_NAME["chat"], user_agent='ü"\ud800', strip_usage=True, log_prompts=True)


def test_a_sealed_grant_is_read_back_unchanged() -> None:
    text = json_of(GRANT)
    assert text.isascii()
    assert Grant.from_json(text) == GRANT


def test_a_sealed_grant_is_a_valid_header() -> None:
    grant = grant_for(BY_NAME["chat"], user_agent="".join(map(chr, range(0x100))))
    text = json_of(grant)
    assert all(" " <= each <= "~" for each in text)
    assert Grant.from_json(text) == grant


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "{}", '{"request_id":"r"}'])
def test_a_text_that_is_not_a_grant_raises_one_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Grant.from_json(text)


def test_an_unknown_field_of_a_later_release_is_ignored() -> None:
    assert Grant.from_json(json_of(GRANT)[:-1] + ',"later":1}') == GRANT


def test_a_field_that_is_missing_has_its_default() -> None:
    text = json.dumps({name: value for name, value in json.loads(json_of(GRANT)).items() if name != "weight"})
    assert Grant.from_json(text) == GRANT
    assert Grant.from_json(text).weight == 1


def test_a_grant_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Grant.from_json(json_of(GRANT)).model = "other"  # type: ignore[misc]


def test_a_grant_has_the_fields_of_its_request_record() -> None:
    record = RequestRecord(**record_fields(GRANT))
    assert record_fields(record) == record_fields(GRANT)

"""Redaction leaves no valid item of a requested kind, and all other text as it is."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stdnum import iban, luhn

from authz.keys import key_format
from gateway.settings.personal_data import PersonalData
from meter.prompt_log.redaction import WINDOW, Redactor

ALL = Redactor(list(PersonalData))

ITEMS = {
    PersonalData.EMAIL: ("ada@example.com", "ada.l+tag@mail.example.co.uk", "grüße@exämple.de", "o'neil@x-y.io"),
    PersonalData.IBAN: ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "gb29nwbk60161331926819"),
    PersonalData.CARD: ("4111111111111111", "4111 1111 1111 1111", "3782-822463-10005", "5555555555554444"),
    PersonalData.PHONE: ("+49 30 901820", "+1 (212) 555-0100", "0049301234567", "030/901820", "(212) 555-0100"),
    PersonalData.KEY: (
        # The parameters of a test are the same in every worker of pytest-xdist.
        (body := "nz_a1B2c3D4e" + "Zz9" * 8 + "Zz") + key_format.check_digits(body),
        "sk-proj-" + "a1B2" * 8,
        "ghp_" + "a1B2" * 9,
        "AKIA" + "A1B2" * 4,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0aa.c2lnbmF0dXJl",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----",
    ),
}
CASES = [(kind, item) for kind, items in ITEMS.items() for item in items]
# Text that resembles an item and is none.
HARMLESS = (
    "Meet me @ noon, 2030-01-02 12:34:56, hall 0815, version 1.2.3, 10.0.0.1",
    "4111 1111 1111 1112 and DE88370400440532013000 have wrong check digits",
    "1763726400000 ms, 1,234,567,890, ISBN 978-3-16-148410-0, 3.14159265358979",
    "nz_ alone, sk-1, 0a1b2c3d-0000-4000-8000-000000000000, a@b, a@.de",
    "0800 is free, 007, 00, +1, (212), 555-0100",
    "",
)


@pytest.mark.parametrize(("kind", "item"), CASES, ids=[item for _, item in CASES])
@pytest.mark.parametrize("frame", ["{}", "to {}.", "<{}>", "\n{}\n", "x: {}, y", "“{}”"])
def test_each_item_is_replaced_by_its_kind(kind: PersonalData, item: str, frame: str) -> None:
    assert Redactor([kind]).redact(frame.format(item)) == frame.format(f"[redacted: {kind}]")


@pytest.mark.parametrize("text", HARMLESS)
def test_text_without_an_item_is_unchanged(text: str) -> None:
    assert ALL.redact(text) == text


@pytest.mark.parametrize("kind", PersonalData)
def test_only_the_requested_kinds_are_replaced(kind: PersonalData) -> None:
    others = [item for other, items in ITEMS.items() if other not in (kind, PersonalData.PHONE) for item in items]
    if kind is not PersonalData.PHONE:
        assert Redactor([kind]).redact("\n".join(others)) == "\n".join(others)
    assert Redactor([]).redact(ITEMS[kind][0]) == ITEMS[kind][0]


def test_a_private_key_across_windows_is_replaced_whole() -> None:
    pem = "-----BEGIN RSA PRIVATE KEY-----\n" + ("Ab1+" * 16 + "\n") * 100 + "-----END RSA PRIVATE KEY-----"
    filler = "x y\n" * (WINDOW // 4 - 500)
    assert ALL.redact(filler + pem + filler) == f"{filler}[redacted: key]{filler}"


def test_words_and_digits_around_an_item_remain() -> None:
    assert ALL.redact("DE89 3704 0044 0532 0130 00 IST DIE IBAN") == "[redacted: iban] IST DIE IBAN"
    assert ALL.redact("4111 1111 1111 1111 12/30 123") == "[redacted: card] 12/30 123"


words = st.text(string.ascii_letters + string.digits + " .,;:-@+/()\n\"'äß{}[]", max_size=60)
cards = st.builds(
    lambda digits, first: first + digits + luhn.calc_check_digit(first + digits),
    st.text(string.digits, min_size=11, max_size=17),
    st.sampled_from("23456"),
)
ibans = st.text(string.digits, min_size=18, max_size=18).map(
    lambda bban: f"DE{iban.calc_check_digits(f'DE00{bban}')}{bban}"
)
emails = st.from_regex(r"[a-z0-9.+_-]{1,20}@([a-z0-9-]{1,10}\.){1,3}[a-z]{2,6}", fullmatch=True)
keys = st.integers().map(lambda _: key_format.generate().secret.get_secret_value())
items = cards | ibans | emails | keys


@given(st.lists(st.tuples(words, items), min_size=1, max_size=5))
@example([("DE", "4111111111111111")])
def test_no_separate_valid_item_is_left(parts: list[tuple[str, str]]) -> None:
    redacted = ALL.redact("".join(f"{text}\n{item}\n" for text, item in parts))
    for _, item in parts:
        assert not re.search(rf"(?<!\S){re.escape(item)}(?!\S)", redacted)
    assert not re.search(r"[\w+-]@[\w-]+\.[\w-]{2,}", redacted)
    assert "nz_" not in redacted or not any(key_format.parse(each) for each in re.findall(r"nz_\w+", redacted))
    assert not any(
        len(d) > 12 and d[0] in "23456" and luhn.is_valid(d) for d in re.findall(r"(?<!\d)\d{13,19}(?!\d)", redacted)
    )


@given(st.text(string.ascii_letters + " .,\n", max_size=200))
def test_letters_without_digits_and_at_signs_are_never_changed(text: str) -> None:
    assert ALL.redact(text) == text


@given(st.integers(WINDOW - 40, WINDOW + 40), items)
def test_an_item_at_the_end_of_a_window_is_found(offset: int, item: str) -> None:
    filler = ("lorem ipsum " * WINDOW)[:offset]
    redacted = ALL.redact(f"{filler}\n{item}\n{filler}")
    assert item not in redacted
    assert redacted.startswith(filler)
    assert redacted.endswith(filler)

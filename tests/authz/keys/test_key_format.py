from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.keys.key_format import (
    ALPHABET,
    KEY_LENGTH,
    PREFIX_LENGTH,
    check_digits,
    generate,
    is_prefix,
    parse,
    presented_prefix,
)


def test_a_generated_key_has_the_documented_shape_and_parses_to_itself() -> None:
    key = generate()
    text = key.secret.get_secret_value()
    assert len(text) == KEY_LENGTH == 44
    assert text.startswith("nz_")
    assert set(text[3:]) <= set(string.ascii_letters + string.digits)
    assert key.prefix == text[:PREFIX_LENGTH]
    assert is_prefix(key.prefix)
    assert parse(text) == key


def test_a_thousand_keys_share_neither_prefix_nor_secret() -> None:
    keys = [generate() for _ in range(1000)]
    assert len({key.prefix for key in keys}) == 1000
    assert len({key.secret.get_secret_value()[PREFIX_LENGTH:] for key in keys}) == 1000


@given(st.text())
def test_any_text_is_parsed_without_an_exception(text: str) -> None:
    parsed = parse(text)
    assert parsed is None or parsed.secret.get_secret_value() == text


@given(st.text(ALPHABET, min_size=41, max_size=41))
def test_an_invented_key_of_the_right_shape_passes_only_with_its_own_check_digits(body: str) -> None:
    text = "nz_" + body
    assert (parse(text) is not None) == (check_digits(text[:-6]) == text[-6:])


@given(st.integers(0, KEY_LENGTH - 1), st.sampled_from(ALPHABET))
def test_one_changed_character_is_noticed(position: int, character: str) -> None:
    text = generate().secret.get_secret_value()
    changed = text[:position] + character + text[position + 1 :]
    assert (parse(changed) is None) == (changed != text)


@pytest.mark.parametrize("wrap", ["{} ", " {}", "{}\n", "Bearer {}", "{}x", "\ufeff{}", "{}\0"])
def test_a_key_with_text_around_it_is_not_a_key(wrap: str) -> None:
    assert parse(wrap.format(generate().secret.get_secret_value())) is None


@pytest.mark.parametrize("text", ["", "nz_", "nz_" + "٣" * 41, "nz_" + "\ud800" * 41, "NZ_" + "a" * 41])
def test_a_text_that_only_resembles_a_key_is_not_one(text: str) -> None:
    assert parse(text) is None


def test_check_digits_are_the_crc_in_base62_padded_to_six() -> None:
    # CRC-32 of "123456789" is the standard's check value 0xCBF43926 = 3421780262.
    digits = check_digits("123456789")
    assert len(digits) == 6
    assert sum(ALPHABET.index(d) * 62 ** (5 - place) for place, d in enumerate(digits)) == 0xCBF43926
    assert check_digits("") == "000000"


def test_a_key_does_not_show_its_secret() -> None:
    key = generate()
    assert key.secret.get_secret_value()[PREFIX_LENGTH:] not in f"{key!r} {key}"


@pytest.mark.parametrize("text", ["nz_12345678", "nz_1234567890", "nz_12345678-", "nz_123456789\n", "xx_123456789"])
def test_a_prefix_has_exactly_twelve_characters(text: str) -> None:
    assert not is_prefix(text)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("nz_123456789", "nz_123456789"),
        ("nz_123456789-and more", "nz_123456789"),
        ("nz_1234", None),
        ("sk-" + "a" * 41, None),
    ],
)
def test_a_presented_prefix_is_shown_only_if_it_has_the_shape_of_one(text: str, prefix: str | None) -> None:
    assert presented_prefix(text) == prefix

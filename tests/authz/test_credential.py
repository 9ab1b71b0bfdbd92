from __future__ import annotations

import base64

import pytest

from authz.credential import find_credential


def basic(user_pass: str) -> str:
    return "Basic " + base64.b64encode(user_pass.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "api_key", "expected"),
    [
        ("Bearer nz_a", None, "nz_a"),
        ("bearer  nz_a ", None, "nz_a"),
        (None, " nz_b", "nz_b"),
        (basic("user:nz_a"), None, "nz_a"),
        (basic(":nz_a"), None, "nz_a"),
        (basic("user:nz_a:b"), None, "nz_a:b"),
        # Clients that also send the credential of another service, or an empty header.
        ("Bearer sk-ant-x", "nz_b", "nz_b"),
        ("Bearer ollama", "nz_b", "nz_b"),
        ("", "nz_b", "nz_b"),
        ("Bearer ", "nz_b", "nz_b"),
        ("Bearer nz_a", "sk-ant-x", "nz_a"),
        ("Bearer nz_a", "", "nz_a"),
        (basic("user:other"), "nz_b", "nz_b"),
        (basic("user:nz_a"), "other", "nz_a"),
        ("Digest username=x", "nz_b", "nz_b"),
        # The same key twice is one key; two different ones are never valid.
        ("Bearer nz_a", "nz_a", "nz_a"),
        (basic("u:nz_a"), "nz_a", "nz_a"),
        ("Bearer nz_a", "nz_b", ""),
        (basic("u:nz_a"), "nz_b", ""),
        ("Bearer nz_a,Bearer nz_b", None, "nz_a,Bearer nz_b"),
        # Credentials that are not keys count as failures.
        ("Bearer sk-1", None, "sk-1"),
        ("nz_a", None, "nz_a"),
        ("Basic !", None, "!"),
        (basic("user:other"), None, "other"),
    ],
)
def test_the_header_that_has_a_key_counts(authorization: str | None, api_key: str | None, expected: str) -> None:
    key = find_credential(authorization, api_key)
    assert key is not None
    assert key.get_secret_value() == expected


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (None, None),
        ("", None),
        (None, ""),
        ("", " "),
        ("Bearer", None),
        ("bearer ", ""),
        (basic("user:"), None),
        (basic("user"), None),
    ],
)  # fmt: skip
def test_a_request_without_credential_guesses_nothing(authorization: str | None, api_key: str | None) -> None:
    assert find_credential(authorization, api_key) is None

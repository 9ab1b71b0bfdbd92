from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from authz.credential import Credential, find_credential
from authz.keys.signed_request import SignedRequest
from tests.ssh_identity import OllamaIdentity


def basic(user_pass: str) -> str:
    return "Basic " + base64.b64encode(user_pass.encode()).decode()


def found(authorization: str | None, api_key: str | None, target: str = "/api/chat") -> Credential | None:
    return find_credential(authorization, api_key, method="POST", target=target, received_at_s=1000)


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
    key = found(authorization, api_key)
    assert isinstance(key, SecretStr)
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
    assert found(authorization, api_key) is None


def test_a_signature_counts_unless_a_key_is_presented_as_well() -> None:
    target, authorization = OllamaIdentity().signed("POST", "/api/chat", 1000)
    for api_key in (None, "", "sk-ant-x"):
        assert isinstance(found(authorization, api_key, target), SignedRequest)
    key = found(authorization, "nz_a", target)
    assert isinstance(key, SecretStr)
    assert key.get_secret_value() == "nz_a"


def test_a_malformed_signature_is_a_credential_that_is_no_key() -> None:
    _, authorization = OllamaIdentity().signed("POST", "/api/chat", 1000)
    malformed = found(authorization, None, "/api/chat")
    assert isinstance(malformed, SecretStr)
    assert malformed.get_secret_value() == authorization

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from authz.keys.signed_request import SignedRequest, parse_signed_request
from gateway.values import Refusal
from tests.ssh_identity import OllamaIdentity

AT_S = 1_790_000_000
# Signed by auth.Sign of ollama/ollama at fb30760, with a key that no longer exists.
OF_OLLAMA = (
    "AAAAC3NzaC1lZDI1NTE5AAAAIBFAVkCBfV3HdmA9+VcgS62bvoN7FXKTS9zBbyvl0fhK:"
    "B8OMUJa/1sCTyy1+wl/PzduyoePY0Xu8e3gRrAtbm3q2NZsiNb7MQWxWei5IeQMiSgSb5aHFHKIDD/Q1Q7TsDg=="
)
# Every worker of pytest-xdist must collect the same parameters.
IDENTITY = OllamaIdentity(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TARGET, AUTHORIZATION = IDENTITY.signed("POST", "/api/chat", AT_S)


def parsed(
    authorization: str, target: str = TARGET, method: str = "POST", received_at_s: float = AT_S
) -> SignedRequest:
    signed = parse_signed_request(authorization, method, target, received_at_s)
    assert signed is not None
    return signed


def test_a_signature_of_ollama_itself_counts() -> None:
    assert parsed(OF_OLLAMA, f"/api/chat?ts={AT_S}").refusal(60) is None


def test_the_signature_covers_method_path_and_query() -> None:
    assert parsed(AUTHORIZATION).refusal(60) is None
    for other in (
        parsed(AUTHORIZATION, method="GET"),
        parsed(AUTHORIZATION, f"/api/generate?ts={AT_S}"),
        parsed(AUTHORIZATION, f"/api/chat?ts={AT_S + 1}"),
        parsed(AUTHORIZATION, f"/api/chat?ts={AT_S}&x=1"),
        parsed(AUTHORIZATION, f"/api/chat?ts=0{AT_S}"),
        parsed(OllamaIdentity().authorization(f"POST,{TARGET}").split(":")[0] + ":" + AUTHORIZATION.split(":")[1]),
    ):
        assert other.refusal(60) is Refusal.WRONG_SIGNATURE


@pytest.mark.parametrize(
    ("received_after_s", "refusal"),
    [
        (-61, Refusal.OUTSIDE_WINDOW),
        (-60.001, Refusal.OUTSIDE_WINDOW),
        (-60, None),
        (0, None),
        (0.999, None),
        (60, None),
        (60.001, Refusal.OUTSIDE_WINDOW),
        (61, Refusal.OUTSIDE_WINDOW),
    ],
)
def test_a_signature_counts_within_the_window_around_its_time(received_after_s: float, refusal: Refusal | None) -> None:
    assert parsed(AUTHORIZATION, received_at_s=AT_S + received_after_s).refusal(60) is refusal


def test_a_window_of_zero_accepts_no_signature() -> None:
    assert parsed(AUTHORIZATION).refusal(0) is Refusal.OUTSIDE_WINDOW


def _blob_of_another_curve() -> str:
    key = derive_private_key(1, SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode().split()[1]


BLOB, SIGNATURE = AUTHORIZATION.split(":")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        ":",
        BLOB,
        f"{BLOB}:",
        f":{SIGNATURE}",
        f"{BLOB} {SIGNATURE}",
        f"Bearer {AUTHORIZATION}",
        f"{AUTHORIZATION}:{SIGNATURE}",
        f"{AUTHORIZATION},{AUTHORIZATION}",
        f"{BLOB}:{SIGNATURE[:-4]}",
        f"{BLOB}:AAAA{SIGNATURE}",
        f"{BLOB}:{SIGNATURE[:-2]}",
        f"{BLOB}:{SIGNATURE[:-3]}!==",
        f"{BLOB[:-4]}:{SIGNATURE}",
        f"{BLOB[:-1]}!:{SIGNATURE}",
        f"AAAA{BLOB[4:8]}{'A' * 60}:{SIGNATURE}",
        f"{_blob_of_another_curve()}:{SIGNATURE}",
        f"AAAAB3NzaC1yc2EAAAADAQABAAAA:{SIGNATURE}",
        f"{BLOB[:-2]}-_:{SIGNATURE}",
    ],
)  # fmt: skip
def test_a_header_of_another_shape_is_no_signature(authorization: str) -> None:
    assert parse_signed_request(authorization, "POST", TARGET, AT_S) is None


@pytest.mark.parametrize(
    "query",
    ["", "?", "?ts", "?ts=", "?ts=1.5", "?ts=-1", "?ts=+1", "?ts=1_0", "?ts=1e9", "?ts=%31", "?TS=1", "?xts=1",
     "?ts=1&ts=2", "?ts=1&ts=1", "?ts=1;ts=2", "?ts=\u0661", f"?ts={'9' * 13}", "#ts=1"],
)  # fmt: skip
def test_a_query_without_exactly_one_time_is_not_signed(query: str) -> None:
    assert parse_signed_request(AUTHORIZATION, "POST", f"/api/chat{query}", AT_S) is None


def test_a_key_that_is_no_point_of_the_curve_verifies_nothing() -> None:
    raw = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + b"\xff" * 32
    assert parsed(f"{base64.b64encode(raw).decode()}:{SIGNATURE}").refusal(60) is Refusal.WRONG_SIGNATURE


@given(
    authorization=st.text() | st.from_regex(r"AAAA[0-9A-Za-z+/]{64}:[0-9A-Za-z+/]{86}==", fullmatch=True),
    method=st.text(),
    target=st.text() | st.from_regex(r"/[^?]*\?ts=[0-9]{1,12}", fullmatch=True),
)
def test_nothing_that_a_caller_sends_raises_or_counts(authorization: str, method: str, target: str) -> None:
    signed = parse_signed_request(authorization, method, target, AT_S)
    assert signed is None or signed.refusal(10**13) is Refusal.WRONG_SIGNATURE

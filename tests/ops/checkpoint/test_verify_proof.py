"""The Ed25519 and the row reader of verify_proof.py, which uses the standard library alone."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.stores.postgres import Database
from ops.checkpoint import verify_proof

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_vectors_of_the_rfc(public: str, message: str, signature: str) -> None:
    arguments = [bytes.fromhex(each) for each in (public, message, signature)]
    assert verify_proof.is_signed(*arguments)
    for position in range(3):
        if arguments[position]:
            changed = [*arguments]
            changed[position] = bytes([changed[position][0] ^ 1]) + changed[position][1:]
            assert not verify_proof.is_signed(*changed)


def test_signatures_of_another_implementation() -> None:
    for _ in range(10):
        key, message = Ed25519PrivateKey.generate(), os.urandom(40)
        public, signature = key.public_key().public_bytes_raw(), key.sign(message)
        assert verify_proof.is_signed(public, message, signature)
        assert not verify_proof.is_signed(public, message + b"x", signature)
        # The same point with a scalar that is not reduced (RFC 8032, section 8.4).
        scalar = int.from_bytes(signature[32:], "little") + verify_proof.L
        assert not verify_proof.is_signed(public, message, signature[:32] + scalar.to_bytes(32, "little"))


def test_the_script_imports_only_the_standard_library() -> None:
    tree = ast.parse(Path(verify_proof.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quoted" one', "back\\slash", "a,b (c)", "line\nline", "\u00fcmlaut", None]
)
async def test_a_row_is_read_as_postgresql_writes_it(database: Database, text: str | None) -> None:
    row = await database.fetchval(
        f"SELECT ROW({', '.join(['$1::text'] * len(verify_proof.COLUMNS))})::text || E'\\nrevoked\\nqueued 7'", text
    )
    columns = verify_proof.columns_of(row)
    assert columns == dict.fromkeys(verify_proof.COLUMNS, text) | {"reason": "revoked", "queued_ms": "7"}

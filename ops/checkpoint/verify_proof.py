"""Verifies offline that one audit row is in the log of a signed checkpoint. Needs nothing but Python 3.9 or newer.

    python3 verify_proof.py proof.json --public-key audit.pub

It prints the row and the checkpoint and exits with 0, or prints why the proof is not valid and exits with 1. The signed
note, the Merkle tree and Ed25519 are those of c2sp.org/signed-note, RFC 9162 section 2.1 and RFC 8032 section 5.1.7.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ORIGIN = "neuronetz-gateway/audit-chain"
COLUMNS = (
    "seq request_id ts tenant_id tenant key_id key_prefix client_ip method path surface model backend status code"
    " outcome stream input_tokens output_tokens usage_source reserved_tokens ttft_ms duration_ms request_bytes"
    " response_bytes user_agent"
).split()

# Ed25519: the field's prime, the group's order, the curve's constant, a root of -1, and the base point.
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


Point = tuple[int, int, int, int]
"""X, Y, Z and T of the extended coordinates."""


class Invalid(Exception):
    """The proof is not valid."""


def add(p: Point, q: Point) -> Point:
    """The sum of two points."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar: int, point: Point) -> Point:
    """The product of a point and a scalar."""
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    return total


def equal(p: Point, q: Point) -> bool:
    """Whether two points are the same."""
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def decompress(encoded: bytes) -> Point | None:
    """The point of its 32 bytes, None if there is none."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE_POINT = (4 * pow(5, -1, P) % P).to_bytes(32, "little")


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature of 64 bytes is valid."""
    base, key, point = (decompress(each) for each in (BASE_POINT, public, signature[:32]))
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or base is None or key is None or point is None or s >= L:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    return equal(multiply(s, base), add(point, multiply(digest, key)))


def signed_text(note: str, public_key: str) -> str:
    """The text of a signed note. Raises Invalid unless the key signed it."""
    match = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)", public_key.strip())
    key = base64.b64decode(match[3]) if match else b""
    if not match or len(key) != 33 or key[:1] != b"\1":
        raise Invalid("the public key is not one of a signed note")
    key_id = hashlib.sha256(match[1].encode() + b"\n" + key).digest()[:4]
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    for name, encoded in re.findall("^\u2014 (\\S+) (\\S+)$", signatures, re.MULTILINE):
        signature = base64.b64decode(encoded)
        if (name, signature[:4]) == (match[1], key_id) and is_signed(key[1:], text.encode(), signature[4:]):
            return text
    raise Invalid("the checkpoint has no valid signature of the key")


def root_of(row: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root of the tree that the row and its path lead to (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        raise Invalid("the index is not in the tree")
    node, last = hashlib.sha256(b"\0" + row).digest(), size - 1
    for sibling in path:
        if last == 0:
            raise Invalid("the path is too long")
        if index & 1 or index == last:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    if last:
        raise Invalid("the path is too short")
    return node


def columns_of(row: str) -> dict[str, str | None]:
    """The columns of a row, from PostgreSQL's text of it. A reason and a time in the queue are in lines after it."""
    values: list[str | None] = []
    position, value, quoted, known = 1, "", False, False
    while True:
        character = row[position]
        position += 1
        if quoted and character in '"\\' and row[position] == character:
            value, position = value + character, position + 1
        elif character == '"':
            quoted, known = not quoted, True
        elif not quoted and character in ",)":
            values.append(value if value or known else None)
            value, known = "", False
            if character == ")":
                break
        else:
            value += character
    if len(values) != len(COLUMNS):
        raise Invalid("the row is not one of the audit log")
    columns = dict(zip(COLUMNS, values))  # noqa: B905 (strict is newer than Python 3.9)
    for line in row[position:].split("\n")[1:]:
        name, _, number = line.partition(" ")
        columns["queued_ms" if name == "queued" and number else "reason"] = number or line
    return columns


def verified(proof: dict[str, Any], public_key: str) -> tuple[dict[str, str | None], str]:
    """The columns of the row, and the text of the checkpoint. Raises Invalid."""
    text = signed_text(proof["checkpoint"], public_key)
    lines = text.splitlines()
    if lines[0] != ORIGIN or not lines[1].isdigit():
        raise Invalid("the note is not a checkpoint of an audit chain")
    encoded = proof["path"]
    path = [base64.b64decode(encoded[start : start + 44]) for start in range(0, len(encoded), 44)]
    if root_of(proof["row"].encode(), proof["index"], int(lines[1]), path) != base64.b64decode(lines[2]):
        raise Invalid("the row is not in the log of the checkpoint")
    return columns_of(proof["row"]), text


def main() -> int:
    """The program. Returns its exit code."""
    parser = argparse.ArgumentParser(description="Verify that an audit row is in the log of a signed checkpoint.")
    parser.add_argument("proof", type=Path, help="the file that `neuronetz-gateway prove` wrote")
    parser.add_argument("--public-key", type=Path, required=True, help="the file with the public key")
    arguments = parser.parse_args()
    try:
        proof = json.loads(arguments.proof.read_text("utf-8"))
        columns, text = verified(proof, arguments.public_key.read_text("ascii"))
    except Invalid as error:
        sys.stderr.write(f"not valid: {error}\n")
        return 1
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.stderr.write(f"not valid: the proof cannot be read ({type(error).__name__}: {error})\n")
        return 1
    sys.stdout.write("valid: this row is in the log of this checkpoint\n\n")
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in columns.items() if value is not None)
    sys.stdout.write(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

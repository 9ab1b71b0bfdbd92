"""Self-signed certificates for the servers of the tests, because neither Python nor the wheels can create them.

P-256 and ECDSA as in FIPS 186-5, X.509 as in RFC 5280, encoded in DER. Use them on loopback only: the arithmetic does
not run in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_A = -3
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int] | None

_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
_PRIME256V1 = bytes.fromhex("06082a8648ce3d030107")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_COMMON_NAME = bytes.fromhex("0603550403")
_SUBJECT_KEY_IDENTIFIER = bytes.fromhex("0603551d0e")
_SUBJECT_ALTERNATIVE_NAME = bytes.fromhex("0603551d11")


@dataclass(frozen=True)
class Certificate:
    """The PEM files of a certificate, which is its own authority, and of its key."""

    certificate: Path
    key: Path


def self_signed(directory: Path, *names: str, days: int = 2) -> Certificate:
    """Writes a certificate for DNS names and IP addresses that is valid for `days`, or expired for negative days."""
    private = secrets.randbelow(_N - 1) + 1
    x, y = _multiply(private, _G) or _G
    public = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    now = datetime.now(UTC)
    name = _der(0x30, _der(0x31, _der(0x30, _COMMON_NAME, _der(0x0C, names[0].encode()))))
    extensions = _der(
        0x30,
        _der(0x30, _SUBJECT_ALTERNATIVE_NAME, _der(0x04, _der(0x30, *map(_alternative_name, names)))),
        _der(0x30, _SUBJECT_KEY_IDENTIFIER, _der(0x04, _der(0x04, hashlib.sha1(public).digest()))),  # noqa: S324
    )
    body = _der(
        0x30,
        _der(0xA0, _integer(2)),
        _integer(secrets.randbits(64)),
        _ECDSA_WITH_SHA256,
        name,
        _der(0x30, _time(now + timedelta(days=min(days - 1, -1))), _time(now + timedelta(days=days))),
        name,
        _der(0x30, _der(0x30, _EC_PUBLIC_KEY, _PRIME256V1), _bit_string(public)),
        _der(0xA3, extensions),
    )
    certificate = _der(0x30, body, _ECDSA_WITH_SHA256, _bit_string(_sign(private, body)))
    key = _der(0x30, _integer(1), _der(0x04, private.to_bytes(32, "big")), _der(0xA0, _PRIME256V1))
    stem = names[0].replace(":", "_")
    made = Certificate(directory / f"{stem}.crt", directory / f"{stem}.key")
    made.certificate.write_text(_pem("CERTIFICATE", certificate))
    made.key.write_text(_pem("EC PRIVATE KEY", key))
    return made


def _add(one: _Point, other: _Point) -> _Point:
    if one is None or other is None:
        return one or other
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % _P == 0:
        return None
    slope = (3 * x1 * x1 + _A) * pow(2 * y1, -1, _P) if one == other else (y2 - y1) * pow(x2 - x1, -1, _P)
    x = (slope * slope - x1 - x2) % _P
    return x, (slope * (x1 - x) - y1) % _P


def _multiply(factor: int, point: _Point) -> _Point:
    total: _Point = None
    while factor:
        if factor & 1:
            total = _add(total, point)
        point, factor = _add(point, point), factor >> 1
    return total


def _sign(private: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    nonce = secrets.randbelow(_N - 1) + 1
    r = (_multiply(nonce, _G) or _G)[0] % _N
    s = pow(nonce, -1, _N) * (digest + r * private) % _N
    return _der(0x30, _integer(r), _integer(s))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    # The shortest form. OpenSSL also reads longer ones, but BoringSSL, which Envoy uses, does not.
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    length = bytes([size]) if size < 128 else bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + content


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bit_string(content: bytes) -> bytes:
    return _der(0x03, b"\x00", content)


def _time(moment: datetime) -> bytes:
    return _der(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _alternative_name(name: str) -> bytes:
    try:
        return _der(0x87, ipaddress.ip_address(name).packed)
    except ValueError:
        return _der(0x82, name.encode())


def _pem(label: str, content: bytes) -> str:
    text = base64.encodebytes(content).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"

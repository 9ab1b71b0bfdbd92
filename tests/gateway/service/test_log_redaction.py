"""No secret of the settings or of a request is in the log, wherever it is in an event."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from pydantic import SecretStr

from authz.keys import key_format
from gateway.service import logs
from gateway.service.log_redaction import Redaction, secrets_of
from gateway.settings import Settings
from gateway.settings.backend import Backend

KEY = key_format.generate().secret.get_secret_value()
BLOB = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 " + bytes(range(32))).decode()
SIGNATURE = base64.b64encode(bytes(range(64))).decode()
POSTGRES, REPORT, ROLE, REDIS, SENTINEL = (
    'pg-p@ss/w"rd',
    "report-geheim-ä",
    "role'secret",
    "redis:pw:1",
    "sentinel-pw-1",
)
TOKEN, FIRST, SECOND = "token-of-the-single-backend", "first.token/+==", "second token"
COLLECTOR = "key of, the collector"
COLLECTOR_HEADERS = f"x-collector-key={quote(COLLECTOR)}"

SETTINGS = Settings(
    database_url=SecretStr(f"postgresql://app:{quote(POSTGRES, safe='')}@db:5432/gateway"),
    database_report_url=SecretStr(f"postgresql://report:{quote(REPORT, safe='')}@db:5432/gateway"),
    database_service_password=SecretStr(ROLE),
    redis_url=SecretStr(
        f"redis+sentinel://u:{quote(REDIS, safe='')}@s1:26379,s2:26379/main/0?sentinel_password={SENTINEL}"
    ),
    ollama_auth_token=SecretStr(TOKEN),
    otel_exporter_otlp_headers=SecretStr(COLLECTOR_HEADERS),
    ollama_backends=(
        Backend(name="one", base_url="http://one:11434", auth_token=SecretStr(FIRST), auth_header="X-Key"),
        Backend(name="two", base_url="http://two:11434", auth_token=SecretStr(SECOND), auth_header="X-Key"),
    ),
)

# What a text may contain, and the part of it that must not be in the log.
CREDENTIALS = {
    "key": (KEY, KEY[12:]),
    "bearer": (f"Authorization: Bearer {KEY}", KEY[12:]),
    "another service's bearer": ("authorization: Bearer abc.def.ghi", "abc.def"),
    "x-api-key": (f"x-api-key: {KEY}", KEY[12:]),
    "x-api-key of another service": ("x-api-key: 'another-service'", "another-service"),
    "basic": (
        f"Basic {base64.b64encode(f'u:{KEY}'.encode()).decode()}",
        base64.b64encode(KEY[12:30].encode()).decode(),
    ),
    "basic without its scheme": (encoded := base64.b64encode(f"me:{KEY}".encode()).decode(), encoded[4:40]),
    "url with a key": (f"https://u:{KEY}@gateway/v1", KEY[12:]),
    "identity": (f"authorization: {BLOB}:{SIGNATURE}", SIGNATURE[:30]),
    "identity's signature": (f"{BLOB}:{SIGNATURE}", SIGNATURE[:30]),
    "cookie": ("Cookie: session=abcdef0123; other=ghijkl", "abcdef0123"),
    "second cookie": ("Set-Cookie: a=b; session=ghijkl4567", "ghijkl4567"),
    "dsn": ("postgresql://app:unknown-password@db/x", "unknown-password"),
    "dsn's password": (f"could not connect with {POSTGRES}", POSTGRES),
    "dsn's password in a url": (f"postgresql://app:{quote(POSTGRES, safe='')}@db", quote(POSTGRES, safe="")),
    "report password": (f"<{REPORT}>", "geheim"),
    "role's password": (f"ALTER ROLE x PASSWORD '{ROLE}'", ROLE),
    "redis password": (f"AUTH u {REDIS}", REDIS),
    "sentinel password": (f"AUTH {SENTINEL}", SENTINEL),
    "token": (f"-> {TOKEN} <-", TOKEN),
    "first backend's token": (f"X-Key: {FIRST}", FIRST),
    "second backend's token": (f"X-Key: {SECOND}", SECOND),
    "collector's header": (f"x-collector-key: {COLLECTOR}", COLLECTOR),
    "collector's headers as set": (COLLECTOR_HEADERS, quote(COLLECTOR)),
}


def _raise(text: str) -> None:
    raise ValueError(text)


def _raise_with_cause(text: str) -> None:
    try:
        _raise(text)
    except ValueError as error:
        raise RuntimeError("outer") from error


def _with_traceback(text: str) -> None:
    try:
        _raise_with_cause(text)
    except RuntimeError:
        structlog.get_logger().exception("failed")


class Opaque:
    """An object whose repr contains a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"Opaque({self._text!r})"


def _log(**fields: Any) -> None:
    structlog.get_logger().warning("event", **fields)


POSITIONS: dict[str, Callable[[str], None]] = {
    "event": lambda text: structlog.get_logger().warning(text),
    "key": lambda text: _log(**{text: 1}),
    "value": lambda text: _log(reason=text),
    "within a long value": lambda text: _log(reason="x" * (logs.VALUE_CHARACTERS_MAX - 10) + " " + text),
    "complete entry": lambda text: _log(entry=json.dumps({"user_agent": text})),
    "list": lambda text: _log(each=[1, text, {"deep": [text]}]),
    "mapping": lambda text: _log(each={"a": {text: {"b": (text,)}}}),
    "too deep": lambda text: _log(each=[[[[[[[[[text]]]]]]]]]),
    "bytes": lambda text: _log(body=text.encode()),
    "object": lambda text: _log(each=Opaque(text)),
    "exception": lambda text: _log(error=ValueError(text)),
    "traceback": _with_traceback,
    "library": lambda text: logging.getLogger("library").error("failed: %s", text),
    "library's traceback": lambda text: logging.getLogger("library").error("x", exc_info=ValueError(text)),
    "uncaught": lambda text: sys.excepthook(ValueError, ValueError(text), None),
    "context": lambda text: structlog.get_logger().bind(bound=text).warning("event"),
}


@pytest.fixture(params=["json", "console"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    written, root = io.StringIO(), logging.getLogger()
    before, root.handlers = root.handlers, []
    logs.configure(SETTINGS.model_copy(update={"gateway_log_format": request.param}), "meter", written)
    yield written
    root.handlers = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("position", POSITIONS)
def test_no_credential_is_in_the_log(stream: io.StringIO, position: str) -> None:
    for name, (text, secret) in CREDENTIALS.items():
        stream.seek(0)
        stream.truncate()
        POSITIONS[position](text)
        written = stream.getvalue()
        assert written, (position, name)
        for form in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}:
            assert form not in written, (position, name)
        assert "***" in written or position == "within a long value", (position, name)


@pytest.mark.parametrize(
    "name", ["authorization", "x-api-key", "Cookie", "backend_token", "redis_password", "client_secret"]
)
def test_a_field_with_the_name_of_a_secret_is_masked(stream: io.StringIO, name: str) -> None:
    _log(**{name: "unrecognisable", "headers": {name: ["unrecognisable"]}})
    assert "unrecognisable" not in stream.getvalue()


def test_the_settings_reveal_nothing(stream: io.StringIO) -> None:
    _log(settings=SETTINGS, text=str(SETTINGS), dump=SETTINGS.model_dump())
    for secret in (POSTGRES, REPORT, ROLE, REDIS, SENTINEL, TOKEN, FIRST, SECOND, COLLECTOR):
        assert secret not in stream.getvalue()


def test_every_secret_of_the_settings_is_known() -> None:
    passwords = {POSTGRES, REPORT, REDIS}
    encoded = {quote(each, safe="") for each in passwords}
    headers = {COLLECTOR, COLLECTOR_HEADERS}
    assert secrets_of(SETTINGS) == passwords | encoded | headers | {ROLE, SENTINEL, TOKEN, FIRST, SECOND}


def test_what_is_no_secret_remains() -> None:
    event = {
        "event": "key_refused",
        "prefix": KEY[:12],
        "request_id": "0a1b2c3d-0000-4000-8000-000000000000",
        "url": "http://one:11434/api/tags?a=b",
        "reason": "no answer from postgresql://db:5432/gateway within 2 s",
        "tokens": 12,
        "input_tokens": 3,
        "digest": "sha256:" + "ab" * 32,
        "missing": None,
        "models": ["llama3.2:latest"],
    }
    assert Redaction(secrets_of(SETTINGS))(None, "info", dict(event)) == event

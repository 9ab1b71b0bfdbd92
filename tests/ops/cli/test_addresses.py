"""The addresses that `up` and `create-key` print."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.cli.client_address import client_address
from ops.cli.session import Session
from ops.cli.up import _reach_notices
from ops.embedded.options import HostPort
from ops.embedded.state import open_state
from tests.ops.cli.conftest import Operator, write_env

LOOPBACK = HostPort("127.0.0.1", 8080)
WILDCARD = HostPort("0.0.0.0", 8080)  # noqa: S104 (nothing is bound)
TLS_WILDCARD = HostPort("0.0.0.0", 8443)  # noqa: S104 (nothing is bound)


@pytest.fixture(autouse=True)
def address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.embedded.options.outward_address", lambda: "192.0.2.7")


@pytest.mark.parametrize(
    ("listen", "tls", "phrases"),
    [
        (LOOPBACK, None, ["Other machines cannot reach the gateway; --tls"]),
        (LOOPBACK, HostPort("127.0.0.1", 8443), ["Other machines cannot reach the gateway; --tls"]),
        (LOOPBACK, TLS_WILDCARD, ["Other machines reach the gateway at https://192.0.2.7:8443"]),
        (WILDCARD, None, ["Warning: other machines reach the gateway at http://192.0.2.7:8080, where keys"]),
        (WILDCARD, TLS_WILDCARD, ["Other machines reach the gateway at https://192.0.2.7:8443", "Warning: "]),
        (HostPort("10.0.0.5", 80), None, ["Warning: other machines reach the gateway at http://10.0.0.5:80,"]),
    ],
)
def test_up_reports_who_can_reach_it_and_warns_of_clear_text(
    listen: HostPort, tls: HostPort | None, phrases: list[str]
) -> None:
    notices = _reach_notices(listen, tls)
    assert len(notices) == len(phrases)
    assert all(notice.startswith(phrase) for notice, phrase in zip(notices, phrases, strict=True))


@pytest.mark.parametrize(
    ("lines", "url", "note"),
    [
        (["GATEWAY_BIND_HOST=127.0.0.1"], "http://127.0.0.1:8080", "other machines cannot reach"),
        (["GATEWAY_BIND_HOST=0.0.0.0"], "http://192.0.2.7:8080", "clear text"),
        (["GATEWAY_DOMAIN=llm.example"], "https://llm.example", ""),
        (["UP_TLS_LISTEN=127.0.0.1:8443"], "https://127.0.0.1:8443", "other machines cannot reach"),
        (["UP_TLS_LISTEN=0.0.0.0:8443"], "https://192.0.2.7:8443", "caddy-root.crt"),
        (["UP_TLS_LISTEN=0.0.0.0:8443", "GATEWAY_DOMAIN=llm.example"], "https://llm.example:8443", "caddy-root.crt"),
    ],
)
def test_a_new_key_of_up_comes_with_the_address_for_other_machines(
    tmp_path: Path, lines: list[str], url: str, note: str
) -> None:
    with open_state(tmp_path / "state") as state:
        write_env(state.env_file, "postgresql://h/db", lines)
    address = client_address(Session(state.env_file, tmp_path))
    assert address.url == url
    assert note in "; ".join(address.notes)


def test_create_key_prints_the_note_after_the_environment(tmp_path: Path, database_url: str) -> None:
    with open_state(tmp_path / "state") as state:
        operator = Operator(write_env(state.env_file, database_url, ["GATEWAY_BIND_HOST=127.0.0.1"]))
    operator.does("create-tenant", "--name", "acme")
    output = operator.does("create-key", "--tenant", "acme", "--name", "k")
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/v1" in output
    assert output.splitlines()[-1].startswith("note: other machines cannot reach this address;")

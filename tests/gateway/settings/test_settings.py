from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr, ValidationError

from gateway.errors import SettingsError
from gateway.settings import Settings, load, load_file_alone, misspelt_names
from gateway.settings.backend import Backend


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GATEWAY_ENV_FILE", raising=False)
    return tmp_path / "env"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("DEFAULT_RPM=many", "DEFAULT_RPM='many': expected a whole number"),
        ("GATEWAY_BIND_PORT=70000", "GATEWAY_BIND_PORT='70000'"),
        (
            "OLLAMA_MAX_CONNECTIONS=100000001",
            "OLLAMA_MAX_CONNECTIONS='100000001': expected 100,000,000 or less",
        ),
        (
            "OLLAMA_READ_TIMEOUT_S=1e10",
            "OLLAMA_READ_TIMEOUT_S='1e10': expected 31,536,000 or less",
        ),
        (
            "OLLAMA_CONNECT_TIMEOUT_S=inf",
            "OLLAMA_CONNECT_TIMEOUT_S='inf': expected 31,536,000 or less",
        ),
        (
            "OLLAMA_CONNECT_TIMEOUT_S=0.0001",
            "OLLAMA_CONNECT_TIMEOUT_S='0.0001': expected 0.001 or more",
        ),
        (
            "AUDIT_LOG_DEFAULT_RETENTION_DAYS=1000000",
            "AUDIT_LOG_DEFAULT_RETENTION_DAYS='1000000': expected 36,500 or less",
        ),
        ("GATEWAY_BIND_HOST=gateway.example.org", "GATEWAY_BIND_HOST='gateway.example.org': expected an IP address"),
        ("MAX_NUM_PREDICT=99999999999", "MAX_NUM_PREDICT='99999999999'"),
        (
            "MODEL_DISCOVERY_REFRESH_S=300",
            "MODEL_DISCOVERY_CACHE_TTL_S=120.0: expected more than MODEL_DISCOVERY_REFRESH_S",
        ),
        ("OLLAMA_BASE_URL=ftp://x", "OLLAMA_BASE_URL='ftp://x': expected http://HOST[:PORT]"),
        ("OLLAMA_BASE_URL=http://user:pw@x", "credentials do not belong in a URL"),
        ("METER_GRPC_LISTEN=here", "METER_GRPC_LISTEN='here': expected HOST:PORT or unix:/absolute/path"),
        ("GATEWAY_TRUSTED_PROXIES=caddy", "GATEWAY_TRUSTED_PROXIES='caddy': expected IP addresses or networks"),
        ("GATEWAY_LOG_LEVEL=loud", "GATEWAY_LOG_LEVEL='loud': expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("PLAYGROUND_ENABLED=perhaps", "PLAYGROUND_ENABLED='perhaps': expected true or false"),
        ("REDIS_TIMEOUT_S=soon", "REDIS_TIMEOUT_S='soon': expected a number"),
        ("GATEWAY_REQUEST_ID_HEADER=x y id", "expected a text that matches ^[A-Za-z0-9]"),
        ('OLLAMA_BACKENDS=[{"name":"a","base_url":"http://a","colour":1}]', "OLLAMA_BACKENDS[0].colour: unknown field"),
        ('OLLAMA_BACKENDS=[{"name":"a"}]', "OLLAMA_BACKENDS[0].base_url: this field is required"),
        ("GATEWAY_REQUEST_ID_HEADER=Date", "GATEWAY_REQUEST_ID_HEADER='Date': expected a name that ends with ID"),
        ("CONTROL_HTTP_LISTEN=9004", "CONTROL_HTTP_LISTEN='9004': expected HOST:PORT or unix:/absolute/path"),
        ("SERVICE_TLS_CERT_FILE=/tls/authz.crt", "SERVICE_TLS_CA_FILE=None: expected all three"),
        ('OLLAMA_BACKENDS=[{"name":"A"}]', "OLLAMA_BACKENDS[0].name: expected a name of 1 to 40 lower-case letters"),
        (
            'OLLAMA_BACKENDS=[{"name":"a","base_url":"http://a","weight":1}]',
            "OLLAMA_BACKENDS[0]: `weight` has no effect, because backends are tried in the order of the list",
        ),
        ("OLLAMA_BASE_URL=http://a b", "OLLAMA_BASE_URL='http://a b': expected a host of letters"),
        ("OLLAMA_AUTH_HEADER=Host", "OLLAMA_AUTH_HEADER='Host': expected a header that carries nothing else"),
        ("OLLAMA_AUTH_HEADER=X-Envoy-Retry-On", "expected a header that carries nothing else"),
        ("OLLAMA_AUTH_SCHEME=a b", "OLLAMA_AUTH_SCHEME='a b'"),
        (f"DATABASE_SERVICE_ROLE={'r' * 64}", "expected the name of a PostgreSQL role, of at most 63 bytes"),
        ("DATABASE_SERVICE_PASSWORD=ä", "DATABASE_SERVICE_PASSWORD: expected printable ASCII characters"),
        ('OLLAMA_AUTH_TOKEN="a\\nb"', "OLLAMA_AUTH_TOKEN: expected a token of visible ASCII characters"),
        ('OLLAMA_BACKENDS={"name"', "OLLAMA_BACKENDS: expected a JSON list of backends"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(env: Path, line: str, shown: str) -> None:
    env.write_text(line + "\n")
    with pytest.raises(SettingsError) as wrong:
        load(env)
    assert shown in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    "line",
    [
        "DATABASE_URL=mysql://u:s3cret@h/d",
        "DATABASE_LISTEN_URL=mysql://u:s3cret@h/d",
        "DATABASE_REPORT_URL=mysql://u:s3cret@h/d",
        "DATABASE_SERVICE_PASSWORD=s3cret-ä",
        "REDIS_URL=http://:s3cret@h",
        "REDIS_URL=redis+sentinel://:s3cret@h:x/gateway",
        "REDIS_URL=redis+sentinel://:s3cret@h:26379",
        "REDIS_URL=redis+sentinel://:s3cret@h:26379/gateway/first",
        "REDIS_URL=redis+sentinel://:s3cret@h/gateway?password=s3cret",
        "REDIS_URL=redis://:s3cret@h:99999/0",
        "REDIS_URL=redis://:h:s3cret/0",
        "OLLAMA_BASE_URL=http://user:s3cret@h",
        "OLLAMA_BASE_URL=ftp://user:s3cret@h",
        'OLLAMA_BACKENDS=[{"name":"a","base_url":"ftp://h","auth_token":"s3cret"}]',
        'OLLAMA_BACKENDS=[{"name":"a","base_url":"http://h","auth_token":"s3cret"',
        'OLLAMA_BACKENDS=[{"name":"a","base_url":"http://h","auth_token":"s3cret","weight":1}]',
    ],
)
def test_a_wrong_value_that_may_hold_a_secret_is_not_shown(env: Path, line: str) -> None:
    env.write_text(line + "\n")
    with pytest.raises(SettingsError) as wrong:
        load(env)
    assert "s3cret" not in str(wrong.value)
    assert "s3cret" not in repr(wrong.value.__cause__)


def test_localhost_is_an_address_for_envoy_too(env: Path) -> None:
    env.write_text("GATEWAY_BIND_HOST=localhost\n")
    assert load(env).gateway_bind_host == "127.0.0.1"


def test_shards_are_for_a_cluster_and_not_for_sentinels(env: Path) -> None:
    env.write_text("REDIS_URL=redis+sentinel://:s3cret@h/gateway\nREDIS_SHARDS=4\n")
    with pytest.raises(
        SettingsError, match=r"^REDIS_SHARDS='4': expected 1, because REDIS_URL names Sentinels"
    ) as wrong:
        load(env)
    assert "s3cret" not in str(wrong.value)


def test_what_is_left_empty_is_off(env: Path) -> None:
    env.write_text("CONTROL_HTTP_LISTEN=\nSERVICE_TLS_CERT_FILE=\nDATABASE_LISTEN_URL=\nDATABASE_REPORT_URL=\n")
    settings = load(env)
    assert settings.service_tls is None
    assert settings.control_http_listen is None
    assert settings.database_listen_url is None
    assert settings.database_report_url is None


def test_the_environment_wins_over_the_file(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.write_text("DEFAULT_RPM=5\nDEFAULT_TPM=6\n")
    monkeypatch.setenv("DEFAULT_RPM", "7")
    settings = load(env)
    assert (settings.default_rpm, settings.default_tpm) == (7, 6)


def test_a_file_alone_says_nothing_of_the_environment(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.write_text("DEFAULT_RPM=5\n")
    monkeypatch.setenv("DEFAULT_RPM", "7")
    monkeypatch.setenv("DEFAULT_TPM", "7")
    alone = load_file_alone(env)
    assert (alone.default_rpm, alone.default_tpm) == (5, Settings.model_fields["default_tpm"].default)


def test_a_file_that_cannot_be_read_is_one_sentence(env: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load(env)
    env.write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(env)


def test_one_backend_or_many(env: Path) -> None:
    env.write_text("OLLAMA_BASE_URL=http://near:11434\nOLLAMA_AUTH_TOKEN=t\n")
    (single,) = load(env).backends
    assert (single.name, single.urls) == ("default", ("http://near:11434",))
    env.write_text('OLLAMA_BACKENDS=[{"name":"b","base_url":"http://b:1","replicas":["http://b:2"]}]\n')
    (first,) = load(env).backends
    assert first.urls == ("http://b:1", "http://b:2")


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("http://h/", "http://h"),
        (" https://h:1/a/b-c.d_e~f/ ", "https://h:1/a/b-c.d_e~f"),
        ("http://h/...", "http://h/..."),
    ],
)
def test_a_backend_may_have_a_path(url: str, taken: str) -> None:
    backend = Backend(name="b", base_url=url)
    assert (backend.base_url, backend.path) == (taken, urlsplit(taken).path)


@pytest.mark.parametrize("path", ["/..", "/a/../b", "/./a", "/a//b", "/a%20b", '/a"b', "/a\\b", "/a?b", "/a#b", "/é"])
def test_a_path_has_no_dots_empty_segments_or_escapes(path: str) -> None:
    with pytest.raises(ValidationError):
        Backend(name="b", base_url=f"http://h{path}")


def test_all_replicas_have_one_path() -> None:
    with pytest.raises(ValidationError, match="the same path"):
        Backend(name="b", base_url="http://h/a", replicas=("http://h2",))


def test_the_scheme_goes_with_authorization_only() -> None:
    def sent(**options: object) -> tuple[str, str] | None:
        credential = Backend.model_validate({"name": "b", "base_url": "http://b", **options}).credential()
        return credential and (credential[0], credential[1].get_secret_value())

    assert sent() is None
    assert sent(auth_token="") is None
    assert sent(auth_token="t") == ("Authorization", "Bearer t")
    assert sent(auth_token="t", auth_scheme="") == ("Authorization", "t")
    assert sent(auth_token="t", auth_header="X-API-Key") == ("X-API-Key", "t")


def test_no_secret_is_in_a_representation() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql+asyncpg://u:s3cret@h/d"), ollama_auth_token=SecretStr("s3cret")
    )
    assert settings.database_url.get_secret_value() == "postgresql://u:s3cret@h/d"
    assert "s3cret" not in repr(settings) + str(settings.backends)


def test_names_that_resemble_a_setting_are_found_in_the_file_and_the_environment(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_RMP", "5")
    monkeypatch.setenv("POSTGRES_PASSWORD", "x")
    env.write_text("OLLAMA_BACKEND=[]\ndefault_tpm=7\nREDIS_URL=redis://h\n")
    assert misspelt_names(env) == {"DEFAULT_RMP": "DEFAULT_RPM", "OLLAMA_BACKEND": "OLLAMA_BACKENDS"}
    assert misspelt_names(None) == {"DEFAULT_RMP": "DEFAULT_RPM"}

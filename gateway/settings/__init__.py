"""Every setting of every service, and the only reader of the environment.

A setting `x_y` is the environment variable or env-file line `X_Y`; the environment wins over the file.
"""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.errors import SettingsError
from gateway.settings import sentinel_url
from gateway.settings.backend import Backend, CredentialHeader, CredentialScheme, HeaderName, Origin, Token


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _listen(value: str) -> str:
    if value.startswith("unix:"):
        if not value.startswith("unix:/"):
            raise ValueError("expected unix:/absolute/path")
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("expected HOST:PORT or unix:/absolute/path")
    return value


def _bind_host(value: str) -> str:
    """An IP address: Envoy looks up no names of its own."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("expected an IP address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's") from None


def _has_a_port_that_can_be(url: str) -> bool:
    """Whether the port of `url` is a number, if it has one; what urlsplit would say of it repeats half a password."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _postgres(value: SecretStr) -> SecretStr:
    url = value.get_secret_value().replace("postgresql+asyncpg://", "postgresql://", 1)
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return SecretStr(url)


def _role(value: str) -> str:
    if len(value.encode()) > 63 or "\0" in value:
        raise ValueError("expected the name of a PostgreSQL role, of at most 63 bytes")
    return value


def _password(value: SecretStr) -> SecretStr:
    # Any other is normalized by each client in its own way.
    text = value.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("expected printable ASCII characters")
    return value


Address = Annotated[str, AfterValidator(_listen)]
OptionalAddress = Annotated[Address | None, BeforeValidator(_empty_is_none)]
OptionalFile = Annotated[Path | None, BeforeValidator(_empty_is_none)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres)]
OptionalPostgresUrl = Annotated[PostgresUrl | None, BeforeValidator(_empty_is_none)]
OptionalRole = Annotated[Annotated[str, AfterValidator(_role)] | None, BeforeValidator(_empty_is_none)]
OptionalPassword = Annotated[Annotated[SecretStr, AfterValidator(_password)] | None, BeforeValidator(_empty_is_none)]
Addresses = Annotated[list[Address], NoDecode, BeforeValidator(_split)]
# Envoy counts time-outs in whole milliseconds and refuses those of centuries; a year is as good as for ever.
Seconds = Annotated[float, Field(ge=0.001, le=31_536_000)]
Days = Annotated[int, Field(ge=1, le=36_500)]
# Envoy's breakers have 32 bits, and one of them is a multiple of this.
Connections = Annotated[int, Field(ge=1, le=100_000_000)]
# What the commands take too: PostgreSQL's integers, and tokens that travel as doubles.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**53 - 1)]


class TlsFiles(NamedTuple):
    """A certificate with its chain, its key, and the authority that the other side's certificate must be from."""

    cert: Path
    key: Path
    ca: Path


class Settings(BaseSettings):
    """The settings of all services; each reads what it needs."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True)

    gateway_bind_host: Annotated[str, AfterValidator(_bind_host)] = "0.0.0.0"  # noqa: S104 (in Compose only Caddy is published; `up` binds loopback)
    gateway_bind_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    gateway_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    gateway_log_format: Literal["json", "console"] = "json"
    gateway_request_id_header: HeaderName = "X-Request-ID"
    gateway_trusted_proxies: Annotated[list[str], NoDecode, BeforeValidator(_split)] = ["127.0.0.1"]
    gateway_domain: str = "localhost"
    gateway_shutdown_grace_s: Seconds = 25.0

    ollama_base_url: Origin = "http://ollama:11434"
    ollama_connect_timeout_s: Seconds = 5.0
    ollama_read_timeout_s: Seconds = 600.0
    ollama_max_connections: Connections = 64
    ollama_auth_token: Token = SecretStr("")
    ollama_auth_header: CredentialHeader = "Authorization"
    ollama_auth_scheme: CredentialScheme = "Bearer"
    ollama_backends: Annotated[tuple[Backend, ...], NoDecode] = ()

    model_discovery_refresh_s: Seconds = 60.0
    model_discovery_cache_ttl_s: Annotated[Seconds, Field(validate_default=True)] = 120.0
    routing_prefer_loaded: bool = False
    allow_cloud_models: bool = False

    database_url: PostgresUrl = SecretStr("postgresql://gateway@127.0.0.1:5432/gateway")
    database_listen_url: OptionalPostgresUrl = None
    database_report_url: OptionalPostgresUrl = None
    database_service_role: OptionalRole = None
    database_service_password: OptionalPassword = None
    database_statement_cache_size: NonNegativeInt = 100
    database_pool_size: PositiveInt = 10
    database_pool_overflow: NonNegativeInt = 20
    database_timeout_s: Seconds = 2.0
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout_s: Seconds = 0.5
    redis_key_cache_ttl_s: Seconds = 60.0
    redis_shards: Annotated[int, Field(ge=1, le=256)] = 1

    default_rpm: Count = 60
    default_tpm: Tokens = 100_000
    default_concurrent: Count = 8
    max_request_body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 262_144
    max_num_predict: Count = 4096
    hold_lease_s: Seconds = 15.0

    argon2_time_cost: PositiveInt = 3
    argon2_memory_cost_kib: Annotated[int, Field(ge=8)] = 65_536
    argon2_parallelism: PositiveInt = 4
    auth_failure_rate_limit_per_ip_per_min: PositiveInt = 20

    audit_buffer_size: PositiveInt = 1000
    prompt_log_default_retention_days: Days = 30
    audit_log_default_retention_days: Days = 365
    playground_enabled: bool = False

    authz_grpc_listen: Address = "127.0.0.1:9001"
    authz_http_listen: Address = "127.0.0.1:9002"
    meter_grpc_listen: Address = "127.0.0.1:9003"
    authz_grpc_targets: Addresses = ["127.0.0.1:9001"]
    authz_http_targets: Addresses = ["127.0.0.1:9002"]
    meter_grpc_targets: Addresses = ["127.0.0.1:9003"]
    control_http_listen: OptionalAddress = None
    service_tls_cert_file: OptionalFile = None
    service_tls_key_file: OptionalFile = None
    service_tls_ca_file: Annotated[OptionalFile, Field(validate_default=True)] = None
    envoy_config_dir: Path = Path("/etc/neuronetz-gateway/envoy")
    envoy_admin_listen: Address = "127.0.0.1:9901"

    @field_validator("redis_url", mode="after")
    @classmethod
    def _redis_scheme(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if sentinel_url.is_sentinel_url(url):
            sentinel_url.parse(url)
        elif not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("expected redis://, rediss://, unix:// or redis+sentinel://")
        elif not _has_a_port_that_can_be(url):
            raise ValueError("expected a port from 0 to 65535, and a password with its special characters escaped")
        return value

    @field_validator("redis_shards", mode="after")
    @classmethod
    def _cluster_or_sentinel(cls, value: int, info: ValidationInfo) -> int:
        url = info.data.get("redis_url")
        if value > 1 and url is not None and sentinel_url.is_sentinel_url(url.get_secret_value()):
            raise ValueError("expected 1, because REDIS_URL names Sentinels; a Redis Cluster fails over by itself")
        return value

    @field_validator("service_tls_ca_file", mode="after")
    @classmethod
    def _all_or_none(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        names = ("service_tls_cert_file", "service_tls_key_file")
        if len({each is None for each in (value, *(info.data.get(name) for name in names))}) > 1:
            raise ValueError("expected all three of SERVICE_TLS_CERT_FILE, …_KEY_FILE and …_CA_FILE, or none of them")
        return value

    @field_validator("model_discovery_cache_ttl_s", mode="after")
    @classmethod
    def _outlives_a_refresh(cls, value: float, info: ValidationInfo) -> float:
        refresh_s = info.data.get("model_discovery_refresh_s")
        if refresh_s is not None and value <= refresh_s:
            raise ValueError(
                f"expected more than MODEL_DISCOVERY_REFRESH_S ({refresh_s:g}), or no model is known between"
            )
        return value

    @field_validator("gateway_request_id_header", mode="after")
    @classmethod
    def _an_id(cls, value: str) -> str:
        # The header is overwritten on every answer, so it had better be none that means something else.
        if not value.lower().endswith("id"):
            raise ValueError("expected a name that ends with ID, such as X-Request-ID or X-Correlation-ID")
        return value

    @field_validator("gateway_trusted_proxies", mode="after")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for item in value:
            ip_network(item, strict=False)
        return value

    @field_validator("ollama_backends", mode="before")
    @classmethod
    def _parse_backends(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value.strip():
            return ()
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a JSON list of backends ({error.msg} at character {error.pos})") from None

    @field_validator("ollama_backends", mode="after")
    @classmethod
    def _unique_names(cls, value: tuple[Backend, ...]) -> tuple[Backend, ...]:
        names = [backend.name for backend in value]
        if len(names) != len(set(names)):
            raise ValueError("expected every backend to have a name of its own")
        return value

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends in priority order; the single one of OLLAMA_BASE_URL is called `default`."""
        if self.ollama_backends:
            return self.ollama_backends
        return (
            Backend(
                name="default",
                base_url=self.ollama_base_url,
                auth_token=self.ollama_auth_token,
                auth_header=self.ollama_auth_header,
                auth_scheme=self.ollama_auth_scheme,
            ),
        )

    def with_backends_of(self, other: Settings) -> Settings:
        """These settings with the backends of `other`."""
        return self.model_copy(update={name: getattr(other, name) for name in BACKEND_SETTINGS})

    @property
    def service_tls(self) -> TlsFiles | None:
        """The files of mutual TLS between Envoy and the services, None for plain text."""
        cert, key, ca = self.service_tls_cert_file, self.service_tls_key_file, self.service_tls_ca_file
        return TlsFiles(cert, key, ca) if cert and key and ca else None

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks whose `X-Forwarded-For` is believed."""
        return tuple(ip_network(item, strict=False) for item in self.gateway_trusted_proxies)


BACKEND_SETTINGS = (
    "ollama_base_url",
    "ollama_auth_token",
    "ollama_auth_header",
    "ollama_auth_scheme",
    "ollama_backends",
)
"""What says which backends there are: the settings that take effect without a restart."""


class _FileAlone(Settings):
    """The settings as an env file has them, whatever the environment says."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic-settings' signature)
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (dotenv_settings,)


# Their values, or values nested in them, may hold a credential.
SECRET_FIELDS = {
    "database_url",
    "database_listen_url",
    "database_report_url",
    "database_service_password",
    "redis_url",
    "ollama_auth_token",
    "ollama_backends",
}


def _describe(error: ErrorDetails) -> str:
    field, *rest = (str(part) for part in error["loc"])
    place = field.upper() + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
    # An address with a login in it is refused, and its password is one all the same.
    secret = field in SECRET_FIELDS or "@" in str(error["input"])
    given = "" if secret else f"={error['input']!r}"
    return f"{place}{given}: {error['msg'].removeprefix('Value error, ')}"


def default_env_file() -> Path | None:
    """`$GATEWAY_ENV_FILE`, else `./.env` if it is there, else None."""
    if named := os.environ.get("GATEWAY_ENV_FILE"):
        return Path(named)
    return Path(".env") if Path(".env").is_file() else None


def load(env_file: Path | None = None) -> Settings:
    """Reads the settings from the environment and `env_file` (default: see `default_env_file`).

    Raises SettingsError with one line per wrong setting: its name, its value unless it may hold a secret, and
    what is expected.
    """
    return _read(Settings, env_file or default_env_file())


def load_file_alone(env_file: Path) -> Settings:
    """The settings of `env_file`, whatever the environment says. Raises SettingsError as `load` does."""
    return _read(_FileAlone, env_file)


def _read(kind: type[Settings], path: Path | None) -> Settings:
    if path is not None and not path.is_file():
        raise SettingsError(f"the env file {path} does not exist")
    try:
        return kind(_env_file=path)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(each) for each in error.errors())) from None
    except OSError as error:
        raise SettingsError(f"the env file {path} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"the env file {path} cannot be read: it is not UTF-8 ({error.reason})") from None

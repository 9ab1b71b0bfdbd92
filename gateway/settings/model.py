"""Every setting of every service, with its default and its rules."""

from __future__ import annotations

import shlex
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.settings import sentinel_url
from gateway.settings.backend import Backend, Backends, BaseUrl, CredentialHeader, CredentialScheme, OptionalUrl, Token
from gateway.settings.field_types import (
    Address,
    Addresses,
    BindHost,
    BodyBytes,
    Connections,
    Count,
    Days,
    IdentityWindow,
    Networks,
    OptionalAddress,
    OptionalFile,
    OptionalPassword,
    OptionalPostgresUrl,
    OptionalRole,
    Origins,
    PersonalDataKinds,
    PostgresUrl,
    QueueWait,
    RedisUrl,
    RequestIdHeader,
    Seconds,
    Tokens,
    as_number,
)
from gateway.settings.telemetry import Attributes, Headers, Milliseconds, Ratio, Sampler, ServiceName


class TlsFiles(NamedTuple):
    """A certificate with its chain, its key, and the authority that must have issued the peer's certificate."""

    cert: Path
    key: Path
    ca: Path


class Settings(BaseSettings):
    """The settings of all services. Each service uses those that it needs."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True)

    gateway_bind_host: BindHost = "0.0.0.0"  # noqa: S104 (in Compose only Caddy is published; `up` binds loopback)
    gateway_bind_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    gateway_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    gateway_log_format: Literal["json", "console"] = "json"
    gateway_request_id_header: RequestIdHeader = "X-Request-ID"
    gateway_trusted_proxies: Networks = ["127.0.0.1"]
    gateway_allowed_origins: Origins = []
    gateway_domain: str = "localhost"
    gateway_shutdown_grace_s: Seconds = 25.0
    grpc_transport: Literal["grpcio", "nghttp2"] = "nghttp2"

    ollama_base_url: BaseUrl = "http://ollama:11434"
    ollama_connect_timeout_s: Seconds = 5.0
    ollama_read_timeout_s: Seconds = 600.0
    ollama_max_connections: Connections = 64
    ollama_auth_token: Token = SecretStr("")
    ollama_auth_header: CredentialHeader = "Authorization"
    ollama_auth_scheme: CredentialScheme = "Bearer"
    ollama_backends: Backends = ()

    model_discovery_refresh_s: Seconds = 60.0
    model_discovery_cache_ttl_s: Annotated[Seconds, Field(validate_default=True)] = 120.0
    routing_prefer_loaded: bool = False
    routing_affinity: bool = False
    allow_cloud_models: bool = False

    database_url: PostgresUrl = SecretStr("postgresql://gateway@127.0.0.1:5432/gateway")
    database_listen_url: OptionalPostgresUrl = None
    database_report_url: OptionalPostgresUrl = None
    database_service_role: OptionalRole = None
    database_service_password: OptionalPassword = None
    database_statement_cache_size: NonNegativeInt = 100
    # A process opens at most the sum of these two connections; only the sum has an effect.
    database_pool_size: PositiveInt = 10
    database_pool_overflow: NonNegativeInt = 20
    database_timeout_s: Seconds = 2.0
    redis_url: RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout_s: Seconds = 0.5
    redis_key_cache_ttl_s: Seconds = 60.0
    redis_shards: Annotated[int, Field(ge=1, le=256)] = 1

    default_rpm: Count = 60
    default_tpm: Tokens = 100_000
    default_concurrent: Count = 8
    max_request_body_bytes: BodyBytes = 8 * 1024 * 1024
    max_request_body_bytes_ceiling: Annotated[BodyBytes, Field(validate_default=True)] = 32 * 1024 * 1024
    max_num_predict: Count = 4096
    model_refusal_status: Annotated[Literal[403, 404], BeforeValidator(as_number)] = 403
    context_overflow: Literal["truncate", "refuse"] = "truncate"
    hold_lease_s: Seconds = 15.0

    queue_max_wait_s: QueueWait = 30.0
    queue_max_per_tenant: PositiveInt = 64
    queue_max_bytes_per_tenant: PositiveInt = 64 * 1024 * 1024

    argon2_time_cost: PositiveInt = 3
    argon2_memory_cost_kib: Annotated[int, Field(ge=8)] = 65_536
    argon2_parallelism: PositiveInt = 4
    auth_failure_rate_limit_per_ip_per_min: PositiveInt = 20
    ollama_identity_window_s: IdentityWindow = 60.0

    audit_buffer_size: PositiveInt = 1000
    max_concurrent_requests: PositiveInt = 10_000
    prompt_log_default_retention_days: Days = 30
    prompt_log_redact: PersonalDataKinds = []
    prompt_log_public_key_file: OptionalFile = None
    audit_log_default_retention_days: Days = 365
    checkpoint_key_file: OptionalFile = None
    checkpoint_file: OptionalFile = None
    checkpoint_command: str = ""
    checkpoint_interval_s: Annotated[Seconds, Field(validate_default=True)] = 3600.0
    playground_enabled: bool = False
    playground_docs_url: OptionalUrl = None

    authz_grpc_listen: Address = "127.0.0.1:9001"
    authz_http_listen: Address = "127.0.0.1:9002"
    meter_grpc_listen: Address = "127.0.0.1:9003"
    authz_grpc_targets: Addresses = ["127.0.0.1:9001"]
    authz_http_targets: Addresses = ["127.0.0.1:9002"]
    meter_grpc_targets: Addresses = ["127.0.0.1:9003"]
    preferred_authz_workers: Annotated[int, Field(ge=0)] = 0
    control_http_listen: OptionalAddress = None
    metrics_listen: OptionalAddress = None
    metrics_tenants_max: PositiveInt = 100
    service_tls_cert_file: OptionalFile = None
    service_tls_key_file: OptionalFile = None
    service_tls_ca_file: Annotated[OptionalFile, Field(validate_default=True)] = None
    envoy_config_dir: Path = Path("/etc/neuronetz-gateway/envoy")
    envoy_admin_listen: Address = "127.0.0.1:9901"

    otel_exporter_otlp_endpoint: OptionalUrl = None
    otel_exporter_otlp_headers: Headers = SecretStr("")
    otel_service_name: ServiceName = "neuronetz-gateway"
    otel_resource_attributes: Attributes = ""
    otel_traces_sampler: Sampler = "parentbased_always_on"
    otel_traces_sampler_arg: Ratio = 1.0
    otel_metrics_exporter: Literal["otlp", "none"] = "otlp"
    otel_bsp_schedule_delay: Milliseconds = 5000
    otel_metric_export_interval: Milliseconds = 60_000
    otel_exporter_otlp_timeout: Milliseconds = 10_000

    @field_validator("redis_shards", mode="after")
    @classmethod
    def _cluster_or_sentinel(cls, value: int, info: ValidationInfo) -> int:
        url = info.data.get("redis_url")
        if value > 1 and url is not None and sentinel_url.is_sentinel_url(url.get_secret_value()):
            raise ValueError("expected 1, because REDIS_URL names Sentinels; a Redis Cluster fails over by itself")
        return value

    @field_validator("max_request_body_bytes_ceiling", mode="after")
    @classmethod
    def _covers_the_default(cls, value: int, info: ValidationInfo) -> int:
        default = info.data.get("max_request_body_bytes")
        if default is not None and value < default:
            raise ValueError(f"expected at least MAX_REQUEST_BODY_BYTES ({default})")
        return value

    @field_validator("service_tls_ca_file", mode="after")
    @classmethod
    def _all_or_none(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        names = ("service_tls_cert_file", "service_tls_key_file")
        if len({each is None for each in (value, *(info.data.get(name) for name in names))}) > 1:
            raise ValueError("expected all three of SERVICE_TLS_CERT_FILE, …_KEY_FILE and …_CA_FILE, or none of them")
        return value

    @field_validator("checkpoint_command", mode="after")
    @classmethod
    def _splits(cls, value: str) -> str:
        shlex.split(value)
        return value

    @field_validator("checkpoint_interval_s", mode="after")
    @classmethod
    def _key_and_destination(cls, value: float, info: ValidationInfo) -> float:
        destination = info.data.get("checkpoint_file") or info.data.get("checkpoint_command")
        if (info.data.get("checkpoint_key_file") is None) != (not destination):
            raise ValueError("expected CHECKPOINT_KEY_FILE with CHECKPOINT_FILE or CHECKPOINT_COMMAND, or none of them")
        return value

    @field_validator("model_discovery_cache_ttl_s", mode="after")
    @classmethod
    def _outlives_a_refresh(cls, value: float, info: ValidationInfo) -> float:
        refresh_s = info.data.get("model_discovery_refresh_s")
        if refresh_s is not None and value <= refresh_s:
            raise ValueError(
                f"expected more than MODEL_DISCOVERY_REFRESH_S ({refresh_s:g}), otherwise the catalog expires between"
                " refreshes"
            )
        return value

    @property
    def has_queue(self) -> bool:
        """Whether requests wait for slots. The queue and the counters of all tenants must be in one hash slot."""
        return self.queue_max_wait_s > 0 and self.redis_shards == 1

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends in order of priority. The single one of OLLAMA_BASE_URL is named `default`."""
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
        """Networks whose `X-Forwarded-For` is trusted."""
        return tuple(ip_network(item, strict=False) for item in self.gateway_trusted_proxies)


BACKEND_SETTINGS = (
    "ollama_base_url",
    "ollama_auth_token",
    "ollama_auth_header",
    "ollama_auth_scheme",
    "ollama_backends",
)
"""The settings that define the backends. They take effect without a restart."""

SECRET_FIELDS = {
    "database_url",
    "database_listen_url",
    "database_report_url",
    "database_service_password",
    "redis_url",
    "ollama_auth_token",
    "ollama_backends",
    "otel_exporter_otlp_headers",
}
"""Settings whose value, or a part of it, may be a credential. Error messages do not show it."""

"""Builders of API keys and ledger entries, and the function that stores a key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from authz.keys.key_format import generate
from gateway.record.entry import Entry
from gateway.values import Outcome, UsageSource
from ops.database.policies import PolicyChange
from ops.database.tenants import Key, NewKey, TenantRepository

HASH = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$aGFzaA"
NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)


def new_key() -> NewKey:
    """A key that can be stored. No secret verifies against its hash."""
    return NewKey(generate().prefix, HASH)


async def add_key(tenants: TenantRepository, tenant: str = "acme", name: str = "laptop", **options: Any) -> Key:
    """Stores a key. Omitted options have the defaults of the command `create-key`."""
    defaults: dict[str, Any] = {
        "scopes": ["chat", "embeddings"],
        "expires_at": None,
        "log_prompts": False,
        "policy": PolicyChange(),
    }
    return await tenants.create_key(tenant, name, options.pop("key", new_key()), **(defaults | options))


def entry(request_id: str, at: datetime = NOON, **fields: Any) -> Entry:
    """A completed request of tenant 1 with key 1: 3 input tokens and 4 output tokens."""
    values: dict[str, Any] = {
        "request_id": request_id,
        "ts_ms": round(at.timestamp() * 1000),
        "tenant_id": 1,
        "tenant": "acme",
        "key_id": 1,
        "key_prefix": "nz_123456789",
        "client_ip": "192.0.2.1",
        "method": "POST",
        "path": "/api/chat",
        "surface": "chat",
        "model": "llama3.2:latest",
        "backend": "embedded",
        "status": 200,
        "code": None,
        "outcome": Outcome.COMPLETE,
        "stream": True,
        "input_tokens": 3,
        "output_tokens": 4,
        "usage_source": UsageSource.EXACT,
        "reserved_tokens": 100,
        "ttft_ms": 12,
        "duration_ms": 345,
        "request_bytes": 67,
        "response_bytes": 890,
        "user_agent": "tests",
    }
    return Entry(**(values | fields))

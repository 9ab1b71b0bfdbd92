"""The policy in force of a tenant or a key: each value, and whether key, tenant or settings define it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.policies import Policy, policy_from_row

Source = Literal["key", "tenant", "default"]


class Value(NamedTuple):
    """A limit in force, and where it is set."""

    value: int
    source: Source


@dataclass(frozen=True, slots=True)
class Effective:
    """What applies to requests. `models` are canonical names that are allowed by name."""

    limits: Mapping[str, Value]
    allow_all_models: bool
    models: tuple[str, ...]
    models_source: Source


# Limit -> the setting with its default.
_DEFAULTS = {
    "rpm": "default_rpm",
    "tpm": "default_tpm",
    "concurrent": "default_concurrent",
    "max_output": "max_num_predict",
    "max_body": "max_request_body_bytes",
}
# Maxima of one request: the key's own value replaces that of its tenant, also by a higher one.
_REPLACED = ("max_output", "max_body")

LIMITS = tuple(_DEFAULTS)
"""The limits that a policy has."""


def of_tenant(policy: Policy, settings: Settings) -> Effective:
    """What applies to the tenant as a whole. A tenant without a list may use no model."""
    limits = {limit: _tenant_limit(policy, limit, settings) for limit in LIMITS}
    return Effective(limits, bool(policy["allow_all_models"]), tuple(policy["allowed_models"] or ()), "tenant")


def of_key(key: Policy, tenant: Policy, settings: Settings) -> Effective:
    """What applies to a key. A rate limit of its tenant that is lower than its own applies to it as well."""
    inherited = of_tenant(tenant, settings)
    own = {limit: Value(value, "key") for limit in LIMITS if isinstance(value := key.get(limit), int)}
    limits = {
        limit: own.get(limit, inherited.limits[limit])
        if limit in _REPLACED
        else min(own.get(limit, inherited.limits[limit]), inherited.limits[limit], key=lambda each: each.value)
        for limit in LIMITS
    }
    own_list, own_flag = key["allowed_models"], key["allow_all_models"]
    # As authz decides: a key with a list does not use its tenant's permission for every model.
    allow_all = own_flag if own_flag is not None else own_list is None and inherited.allow_all_models
    models = inherited.models if own_list is None else tuple(own_list)
    source: Source = "tenant" if own_list is None and own_flag is None else "key"
    return Effective(limits, allow_all, models, source)


async def read_key_policies(database: Database, prefix: str | None = None) -> dict[str, tuple[Policy, Policy]]:
    """The stored policies of every key, or of one, and of its tenant, by the prefix of the key."""
    rows = await database.fetch(_POLICIES, prefix)
    tenants = {row["tenant_id"]: policy_from_row(row) for row in await database.fetch(_TENANT_POLICIES)}
    return {row["prefix"]: (policy_from_row(row), tenants[row["tenant_id"]]) for row in rows}


_POLICIES = """
SELECT k.prefix, k.tenant_id, l.* FROM gateway.api_keys k JOIN gateway.key_limits l ON l.key_id = k.account_id
WHERE $1::text IS NULL OR k.prefix = $1
"""

_TENANT_POLICIES = "SELECT * FROM gateway.tenant_limits"


def _tenant_limit(policy: Policy, limit: str, settings: Settings) -> Value:
    own = policy.get(limit)
    return Value(own, "tenant") if isinstance(own, int) else Value(getattr(settings, _DEFAULTS[limit]), "default")

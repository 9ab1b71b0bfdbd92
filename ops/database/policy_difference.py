"""What has to change in the database so that it agrees with a policy file. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.errors import Conflict
from ops.database.policy_file import KeyEntry, PolicyFile, TenantEntry, policy_of


@dataclass(frozen=True, slots=True)
class Difference:
    """A tenant or key to create or to change: by field, the stored value and that of the file.

    `tenant` and `name` are spelled as in the file. `prefix` is None for a key to create that the file gives none.
    """

    action: Literal["create", "change"]
    subject: Literal["tenant", "key"]
    tenant: str
    name: str
    prefix: str | None
    fields: Mapping[str, tuple[Any, Any]]


def differences(stored: PolicyFile, file: PolicyFile, unusable: Mapping[str, str]) -> list[Difference]:
    """The differences of each tenant, followed by those of its keys, in the order of the file.

    `stored` has every tenant and every live key. `unusable` are the prefixes of all other keys, with the reason. Raises
    Conflict for a key of the file that is one of those, or is a key of another tenant.
    """
    tenants = {tenant.name.lower(): tenant for tenant in stored.tenants}
    owners = {key.prefix: tenant.name for tenant in stored.tenants for key in tenant.keys}
    found: list[Difference] = []
    for tenant in file.tenants:
        before = tenants.get(tenant.name.lower())
        found += _difference("tenant", tenant.name, before, tenant, None)
        for key in tenant.keys:
            if key.prefix and key.prefix in unusable:
                raise Conflict(f"the key {key.prefix} of {tenant.name} {unusable[key.prefix]}; remove it from the file")
            owner = owners.get(key.prefix, tenant.name)
            if key.prefix and owner.lower() != tenant.name.lower():
                raise Conflict(f"the key {key.prefix} is one of {owner}, not of {tenant.name}")
            known = _find(before.keys if before else [], key)
            found += _difference("key", tenant.name, known, key, known.prefix if known else key.prefix)
    return found


def _find(keys: list[KeyEntry], wanted: KeyEntry) -> KeyEntry | None:
    """The stored key with the same prefix; for a wanted key without a prefix, the one with the same name."""
    if wanted.prefix:
        return next((key for key in keys if key.prefix == wanted.prefix), None)
    return next((key for key in keys if key.name.lower() == wanted.name.lower()), None)


def _difference(
    subject: Literal["tenant", "key"],
    tenant: str,
    before: TenantEntry | KeyEntry | None,
    after: TenantEntry | KeyEntry,
    prefix: str | None,
) -> Iterator[Difference]:
    old, new = _fields(before) if before else {}, _fields(after)
    changed = {field: (old.get(field), value) for field, value in new.items() if before is None or old[field] != value}
    if changed:
        yield Difference("change" if before else "create", subject, tenant, after.name, prefix, changed)


def _fields(entry: TenantEntry | KeyEntry) -> dict[str, Any]:
    """Every value of an entry, by the name of its column."""
    policy = dict(policy_of(entry))
    if isinstance(entry, TenantEntry):
        return {"name": entry.name, "status": entry.status, **policy}
    return {
        "name": entry.name,
        "scopes": sorted(set(entry.scopes)),
        "log_prompts": entry.log_prompts,
        "priority": entry.priority,
        "expires_at": entry.expires_at,
        "identities": sorted(entry.identities),
        **policy,
    }

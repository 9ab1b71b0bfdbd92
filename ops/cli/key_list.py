"""A list of keys as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from gateway.settings import Settings
from ops.cli.policy_text import BUDGETS, in_force_document, models_text
from ops.cli.table import Column, print_table
from ops.database.effective import LIMITS, of_key
from ops.database.policies import Policy
from ops.database.tenants import Key

KeyPolicies: TypeAlias = Mapping[str, tuple[Policy, Policy]]
"""The stored policies of a key and of its tenant, by prefix."""

_FIELDS = ("prefix", "name", "tenant", "status", "scopes", "created_at", "expires_at", "last_used_at")
_COLUMNS = (
    Column("prefix"),
    Column("name"),
    Column("tenant", rank=1),
    Column("status", rank=2),
    Column("scopes", rank=6, folds=True),
    Column("created", rank=7),
    Column("expires", rank=5),
    Column("last used", rank=3),
    Column("note", rank=4, folds=True),
    Column("identities", rank=8, folds=True),
    *(Column(limit, right=True, only_wide=True) for limit in LIMITS),
    *(Column(label, right=True, only_wide=True) for _, label in BUDGETS),
    Column("models", only_wide=True),
    Column("logs prompts", only_wide=True),
    Column("priority", only_wide=True),
)


def key_document(key: Key, policies: tuple[Policy, Policy], settings: Settings) -> dict[str, Any]:
    """The JSON of one key: what is stored, and what is in force."""
    own, tenant = policies
    return {
        **{field: getattr(key, field) for field in _FIELDS},
        "tenant_disabled": key.tenant_disabled,
        "replaced_by": key.replaced_by,
        "reason": key.reason,
        "log_prompts": key.log_prompts,
        "priority": key.priority,
        "identities": list(key.identities),
        **{name: own[name] for name, _ in BUDGETS},
        "in_force": in_force_document(of_key(own, tenant, settings)),
    }


def print_keys(keys: Sequence[Key], policies: KeyPolicies, settings: Settings, *, wide: bool) -> None:
    """Prints a table of keys, or how to create one."""
    print_table(
        _COLUMNS,
        [_row(key, policies[key.prefix], settings) for key in keys],
        empty="no keys yet; create one: neuronetz-gateway create-key --tenant TENANT --name NAME",
        wide=wide,
    )


def _row(key: Key, policies: tuple[Policy, Policy], settings: Settings) -> tuple[object, ...]:
    own, tenant = policies
    effective = of_key(own, tenant, settings)
    return (
        *(getattr(key, field) for field in _FIELDS),
        _note(key),
        key.identities,
        *(f"{limit.value:,} ({limit.source})" for limit in effective.limits.values()),
        *(own[name] for name, _ in BUDGETS),
        models_text(effective),
        key.log_prompts,
        key.priority,
    )


def _note(key: Key) -> str:
    """Why an active key is denied, by which key it was replaced, and why it was revoked."""
    notes = [
        "tenant disabled" if key.tenant_disabled else None,
        f"replaced by {key.replaced_by}" if key.replaced_by else None,
        key.reason if key.reason != "rotated" else None,
    ]
    return ", ".join(filter(None, notes))

"""The policy in force as text and as JSON, for commands that list and show tenants and keys."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ops.cli.output import text
from ops.database.effective import Effective, Source

Budget: TypeAlias = Literal["budget_day", "budget_month", "budget_total"]

BUDGETS: tuple[tuple[Budget, str], ...] = (
    ("budget_day", "daily budget"),
    ("budget_month", "monthly budget"),
    ("budget_total", "total budget"),
)
"""The budgets of a policy, and their labels."""

_SOURCES: dict[Source, str] = {"key": "of the key", "tenant": "of the tenant", "default": "default of the settings"}


def models_text(effective: Effective) -> str:
    """The models that may be used. `all` never includes models that a backend only forwards to."""
    return text(["all"] * effective.allow_all_models + list(effective.models) or ["none"])


def limit_fields(effective: Effective) -> list[tuple[str, str]]:
    """The limits in force as fields of a record, each with its source."""
    return [(name, f"{limit.value:,} ({_SOURCES[limit.source]})") for name, limit in effective.limits.items()]


def in_force_document(effective: Effective) -> dict[str, Any]:
    """The limits and models in force, with their sources."""
    return {
        **{name: {"value": limit.value, "from": limit.source} for name, limit in effective.limits.items()},
        "models": {
            "all": effective.allow_all_models,
            "names": list(effective.models),
            "from": effective.models_source,
        },
    }

"""The policy file: tenants and their keys, without secrets, as an operator writes them down in YAML. Pure.

A file states the whole policy of each tenant and key that it names. A value that is absent is the default: inherited,
no budget, or no model. Tenants and keys that the file does not name are not in its scope.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gateway.errors import GatewayError
from gateway.request.model_name import canonical
from gateway.request.ssh_public_key import SshPublicKey, parse_line
from gateway.settings import INTEGER_MAX, TOKENS_MAX
from gateway.values import Scope
from ops.database.policies import Policy

NAME_LENGTH_MAX = 100
BODY_BYTES_MAX = 64 * 1024 * 1024
WEIGHT_MAX = 100


class PolicyFileRefused(GatewayError):
    """A policy file is not one: no YAML, an unknown field, or an invalid value. The text names it."""


def _name(text: str) -> str:
    if text != text.strip() or not 1 <= len(text) <= NAME_LENGTH_MAX or not text.isprintable():
        raise ValueError(f"expected 1 to {NAME_LENGTH_MAX} printable characters without blanks around them")
    return text


def _time(value: object) -> object:
    """YAML reads a time as a date or a time; without a zone it is in UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return value


def _identity(text: str) -> str:
    return parse_line(text).line


Name = Annotated[str, AfterValidator(_name)]
Model = Annotated[str, AfterValidator(canonical)]
Identity = Annotated[str, AfterValidator(_identity)]
Count = Annotated[int, Field(ge=1, le=INTEGER_MAX)]
Tokens = Annotated[int, Field(ge=1, le=TOKENS_MAX)]
Budget = Annotated[int, Field(ge=0, le=TOKENS_MAX)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Limits(_Part):
    """The limits of a policy; None is inherited."""

    rpm: Count | None = None
    tpm: Tokens | None = None
    concurrent: Count | None = None
    max_output: Count | None = None
    max_body: Annotated[int, Field(ge=1024, le=BODY_BYTES_MAX)] | None = None


class Budgets(_Part):
    """The budgets of a policy in tokens; None is no budget."""

    daily: Budget | None = None
    monthly: Budget | None = None
    total: Budget | None = None


class Models(_Part):
    """The models of a policy; for a key, None is inherited."""

    allow_all: bool | None = None
    names: list[Model] | None = None


class _Subject(_Part):
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    models: Models = Models()


class KeyEntry(_Subject):
    """A key. Without a prefix, its name identifies it among the keys of the tenant."""

    prefix: Annotated[str, Field(pattern=r"^nz_[0-9A-Za-z]{9}$")] | None = None
    name: Name
    scopes: Annotated[list[Literal["chat", "embeddings", "runner", "debug"]], Field(min_length=1)] = [
        Scope.CHAT.value,
        Scope.EMBEDDINGS.value,
    ]
    log_prompts: bool = False
    priority: Literal["interactive", "batch"] = "interactive"
    expires_at: Annotated[datetime | None, BeforeValidator(_time)] = None
    identities: list[Identity] = []

    @property
    def public_keys(self) -> list[SshPublicKey]:
        """The identities, which are lines of `.pub` files."""
        return [parse_line(line) for line in self.identities]


class TenantEntry(_Subject):
    """A tenant and the keys of it that the file is about."""

    name: Name
    status: Literal["active", "disabled"] = "active"
    weight: Annotated[int, Field(ge=1, le=WEIGHT_MAX)] | None = None
    keys: list[KeyEntry] = []

    @model_validator(mode="after")
    def _keys_differ(self) -> TenantEntry:
        _raise_if_repeated(f"the tenant {self.name} has two keys named", [key.name for key in self.keys])
        return self


class PolicyFile(_Part):
    """A whole file."""

    version: Literal[1]
    tenants: list[TenantEntry] = []

    @model_validator(mode="after")
    def _names_and_prefixes_differ(self) -> PolicyFile:
        _raise_if_repeated("two tenants are named", [tenant.name for tenant in self.tenants])
        prefixes = [key.prefix for tenant in self.tenants for key in tenant.keys if key.prefix]
        if len(prefixes) > len(set(prefixes)):
            raise ValueError(f"two keys have the prefix {_repeated(prefixes)}")
        fingerprints = [
            identity.fingerprint for tenant in self.tenants for key in tenant.keys for identity in key.public_keys
        ]
        if len(fingerprints) > len(set(fingerprints)):
            raise ValueError(f"two identities have the fingerprint {_repeated(fingerprints)}")
        return self


def policy_of(subject: TenantEntry | KeyEntry) -> Policy:
    """The policy as it is stored. A tenant has a list of models in any case, which may be empty."""
    is_tenant = isinstance(subject, TenantEntry)
    names = subject.models.names if subject.models.names is not None else [] if is_tenant else None
    allow_all = subject.models.allow_all if subject.models.allow_all is not None else False if is_tenant else None
    policy = Policy(
        rpm=subject.limits.rpm,
        tpm=subject.limits.tpm,
        concurrent=subject.limits.concurrent,
        max_output=subject.limits.max_output,
        max_body=subject.limits.max_body,
        budget_day=subject.budgets.daily,
        budget_month=subject.budgets.monthly,
        budget_total=subject.budgets.total,
        allow_all_models=allow_all,
        allowed_models=None if names is None else sorted(set(names)),
    )
    if isinstance(subject, TenantEntry):
        policy["weight"] = subject.weight
    return policy


def parts_of(policy: Policy) -> dict[str, Any]:
    """The limits, budgets and models of a stored policy, for TenantEntry and KeyEntry."""
    return {
        "limits": Limits(**{name: policy[name] for name in Limits.model_fields}),  # type: ignore[literal-required]
        "budgets": Budgets(daily=policy["budget_day"], monthly=policy["budget_month"], total=policy["budget_total"]),
        "models": Models(allow_all=policy["allow_all_models"], names=policy["allowed_models"]),
    }


def dump(file: PolicyFile) -> str:
    """The file as YAML, without values that are absent."""
    document = file.model_dump(mode="json", exclude_none=True)
    for tenant in document["tenants"]:
        for subject in (tenant, *tenant["keys"]):
            for part in ("limits", "budgets", "models"):
                if not subject[part]:
                    del subject[part]
        for key in tenant["keys"]:
            if not key["identities"]:
                del key["identities"]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def load(text: str) -> PolicyFile:
    """Reads a file. Raises PolicyFileRefused, which names the first wrong or unknown field."""
    try:
        document = yaml.load(text, _UniqueKeys)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyFileRefused(f"the policy file is not YAML: {' '.join(str(error).split())}") from None
    try:
        return PolicyFile.model_validate(document)
    except ValidationError as error:
        raise PolicyFileRefused(f"the policy file: {_first_problem(error)}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which YAML would ignore the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(names) > len(set(map(str, names))):
            raise ValueError(f"a field is given twice in line {node.start_mark.line + 1}: {_repeated(map(str, names))}")
        return super().construct_mapping(node, deep)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "extra_forbidden":
            return f"{place} is not a field of it"
        case "missing":
            return f"{place} is missing"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            return f"{place}: {message}" if place else message


def _raise_if_repeated(sentence: str, names: list[str]) -> None:
    lower = [name.lower() for name in names]
    if len(lower) > len(set(lower)):
        raise ValueError(f"{sentence} {_repeated(lower)}")


def _repeated(names: Iterator[str] | list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]

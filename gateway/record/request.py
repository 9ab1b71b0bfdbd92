"""The fields that a grant and a ledger entry have in common: what one request is, and who sent it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

# Longer texts are cut before they are stored: a row must fit its index, and a log line has a limit.
TEXT_LENGTH_MAX = 512


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. `path` is without query, `request_bytes` is the size of its body.

    `tenant_id`, `tenant`, `key_id` and `key_prefix` are None when no key was verified; `surface` (its name) and `model`
    (canonical) are None when the request was denied before they were known.
    """

    request_id: str
    tenant_id: int | None
    tenant: str | None
    key_id: int | None
    key_prefix: str | None
    client_ip: str
    user_agent: str
    method: str
    path: str
    surface: str | None
    model: str | None
    stream: bool
    request_bytes: int


RECORD_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(RequestRecord))

record_values: attrgetter[tuple[Any, ...]] = attrgetter(*RECORD_FIELDS)
"""The values of RECORD_FIELDS of a record, a grant or an entry, in order: the first arguments of either of these."""

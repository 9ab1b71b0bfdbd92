"""The caller of a request whose head authz accepted, as Envoy carries it to its access log.

Envoy itself denies such a request when its body is too large or does not arrive, and only its access log knows. Pure.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from gateway.record.request import RequestRecord

# Key within the namespace of `gateway.record.grant`.
CALLER_KEY = "caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant and the key of a request, as in RequestRecord. All are None for an unknown caller."""

    tenant_id: int | None = None
    tenant: str | None = None
    key_id: int | None = None
    key_prefix: str | None = None

    @classmethod
    def of(cls, record: RequestRecord) -> Caller:
        """The caller of a request."""
        return cls(record.tenant_id, record.tenant, record.key_id, record.key_prefix)

    def to_json(self) -> str:
        """An ASCII JSON object."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Caller:
        """Reads a caller. Raises ValueError for any other text."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not a caller: {error}") from error

"""The grant: what authz decided about one admitted request, carried to the meter as Envoy dynamic metadata.

Pure. The metadata is a protobuf Struct, which Envoy sends along with every chunk of an answer. The grant is one text in
it and not a Struct of its own: each of its fields would cost all three processes a map entry, again and again.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields

# Envoy puts what an ext_authz server returns into this namespace of the request's dynamic metadata.
METADATA_NAMESPACE = "envoy.filters.http.ext_authz"
# Key of the grant within the Struct, beside the router's own `priority_groups`.
METADATA_KEY = "grant"


@dataclass(frozen=True, slots=True)
class Grant:
    """One admitted request. Tokens are counts, times are milliseconds since the epoch by the store's clock.

    `model` is the canonical name that is sent to the backend. `output_cap` is the most output tokens the hold
    covers, 0 where nothing is generated. `strip_usage` says that the usage report was asked for by the gateway
    and is to be taken out of the answer again. `show_backend` says that the caller may learn which backend answered.
    """

    request_id: str
    admitted_at_ms: int
    tenant_id: int
    tenant: str
    key_id: int
    key_prefix: str
    client_ip: str
    user_agent: str
    method: str
    path: str
    surface: str
    model: str
    stream: bool
    strip_usage: bool
    runner_options: bool
    show_backend: bool
    log_prompts: bool
    input_estimate: int
    output_cap: int
    request_bytes: int

    def to_json(self) -> str:
        """The text that travels, and that a hold keeps: a JSON object in ASCII."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Grant:
        """Reads `to_json`'s text back. Raises ValueError when it is no JSON, and KeyError when a field is missing.

        A field that a release adds has a default, so that what the release before it wrote can still be read.
        """
        data = json.loads(text)
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data or f.default is MISSING})

"""The grant: what authz decided about one admitted request, carried to the meter by Envoy.

Pure. authz returns it as dynamic metadata of the request. Envoy sends it to the meter once, as a header of the gRPC
call that processes the request. Metadata that Envoy forwards itself would be in each message, with every chunk of an
answer, and Envoy would copy it twice each time.

A grant is serialised once. authz writes its `draft` before the admission, the quota appends its decision (`seal`, and
the same rule in `admit.lua`), and the hold and the meter retain that text.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

from gateway.errors import STATUS, Code
from gateway.record.request import RequestRecord, record_of

# Envoy puts what an ext_authz server returns into this namespace of the request's dynamic metadata.
METADATA_NAMESPACE = "envoy.filters.http.ext_authz"
# Key of the grant within the Struct, beside the router's `priority_groups`.
METADATA_KEY = "grant"
# The header of the gRPC call to the meter, see envoy/listener.yaml.
GRANT_HEADER = b"x-nz-grant"
# The header of a call to the meter about a further attempt, see ops/data_plane/further_attempts.py: the path of the
# surface.
ATTEMPT_HEADER = b"x-nz-attempt-path"
# Key of the path of the surface, to which the cluster of a backend prepends the backend's own path.
PATH_KEY = "path"
# Key of the number of candidates of a request with a slot, as a text. Attempts beyond it are for busy servers, see
# envoy/hold_response.wat.
TRIES_KEY = "tries"


@dataclass(frozen=True)
class Grant(RequestRecord):
    """One admitted request. Tokens are counts, times are milliseconds since the epoch by the store's clock.

    `strip_usage` means that the gateway requested the usage report and removes it from the answer. `runner_options`
    means that options of the model's runner are passed on. `show_backend` means that the caller may see which backend
    answered. `output_cap` is the number of output tokens that the hold covers, 0 where nothing is generated.
    `requested_model` and `hosted_model` are the model's name as the caller and as the backend spell it; both are empty
    in a grant of a release that did not have them. `backend_addresses` are the `HOST[:PORT]` of the backends that may
    answer, which no caller may see. `requested_cap` is the output cap that the caller's request has, None without one;
    it may exceed `output_cap` or mean unlimited. `refusal_status` is the status for a model that no backend hosts now.
    `context_tokens` is the context in force, `requested_context` the larger one that the caller requested, each 0 for
    none. `refuses_overflow` means that Ollama has to refuse a prompt that is too long. `replica` is the cluster of the
    replica whose slot the request has, empty without a queue; `weight` is that of its tenant there, and `queued_ms` the
    time that it waited.
    """

    tenant_id: int
    tenant: str
    key_id: int
    key_prefix: str
    surface: str
    model: str
    strip_usage: bool
    runner_options: bool
    show_backend: bool
    log_prompts: bool
    admitted_at_ms: int
    input_estimate: int
    output_cap: int
    requested_model: str = ""
    hosted_model: str = ""
    requested_cap: int | None = None
    backend_addresses: tuple[str, ...] = ()
    refusal_status: int = STATUS[Code.MODEL_NOT_ALLOWED]
    context_tokens: int = 0
    requested_context: int = 0
    refuses_overflow: bool = False
    weight: int = 1
    replica: str = ""
    queued_ms: int | None = None

    @property
    def sent_model(self) -> str:
        """The name of the model in the request to the backend. /api/embeddings of Ollama is sensitive to its case."""
        return self.hosted_model or self.model

    @classmethod
    def from_json(cls, text: str) -> Grant:
        """Reads a sealed text. Raises ValueError when it is not one.

        A field that a later release adds has a default, so that texts of the release before it can still be read.
        """
        try:
            data = json.loads(text)
            if not _NAMES.issuperset(data):
                # A later release has written fields that this one does not know.
                data = {name: value for name, value in data.items() if name in _NAMES}
            missing = _REQUIRED - data.keys()
            data["backend_addresses"] = tuple(data.get("backend_addresses", ()))
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not a grant: {error}") from error
        if missing:
            raise ValueError(f"not a grant: {', '.join(sorted(missing))} is missing")
        return record_of(cls, data)


_NAMES = frozenset(field.name for field in fields(Grant))
_REQUIRED = frozenset(field.name for field in fields(Grant) if field.default is MISSING)
# Made once, because `json.dumps` makes an encoder for each call with separators.
_encode = json.JSONEncoder(separators=(",", ":")).encode

# The fields of a record that differ between the requests of a key. `draft` encodes the others once for all of them.
_OWN = frozenset({"request_id", "client_ip", "user_agent", "request_bytes"})
_SHARED = tuple(field.name for field in fields(RequestRecord) if field.name not in _OWN)
_shared: attrgetter[tuple[Any, ...]] = attrgetter(*_SHARED)
# The names of the values that `_common` encodes.
_COMMON = (
    *_SHARED, "strip_usage", "runner_options", "show_backend", "log_prompts", "requested_model", "hosted_model",
    "backend_addresses", "refusal_status", "context_tokens", "refuses_overflow", "weight",
)  # fmt: skip


def draft(
    record: RequestRecord,
    *,
    strip_usage: bool,
    runner_options: bool,
    show_backend: bool,
    log_prompts: bool,
    requested_model: str = "",
    hosted_model: str = "",
    requested_cap: int | None = None,
    backend_addresses: tuple[str, ...] = (),
    refusal_status: int = STATUS[Code.MODEL_NOT_ALLOWED],
    context_tokens: int = 0,
    requested_context: int = 0,
    refuses_overflow: bool = False,
    weight: int = 1,
) -> str:
    """The grant of `record` without the quota's decision: a JSON object of printable ASCII for `seal`."""
    common = _common(
        *_shared(record),
        strip_usage,
        runner_options,
        show_backend,
        log_prompts,
        requested_model,
        hosted_model,
        backend_addresses,
        refusal_status,
        context_tokens,
        refuses_overflow,
        weight,
    )
    own = (
        f'"request_id":{_encode(record.request_id)},"client_ip":{_encode(record.client_ip)},'
        f'"user_agent":{_encode(record.user_agent)},"request_bytes":{record.request_bytes},'
        f'"requested_cap":{"null" if requested_cap is None else requested_cap},'
        f'"requested_context":{requested_context}'
    )
    # A header cannot have a DEL, which JSON does not escape.
    return f"{{{common},{own}}}".replace("\x7f", "\\u007f")


@lru_cache(maxsize=1024)
def _common(*values: Hashable) -> str:
    """The fields that are the same for many requests of a key, encoded."""
    return _encode(dict(zip(_COMMON, values, strict=True)))[1:-1]


def seal(
    draft: str, admitted_at_ms: int, input_estimate: int, output_cap: int, replica: str = "", queued_ms: int = 0
) -> str:
    """Appends the quota's decision to a draft. `admit.lua` does the same to the text that the hold stores."""
    decision = f'"admitted_at_ms":{admitted_at_ms},"input_estimate":{input_estimate},"output_cap":{output_cap}'
    if replica:
        decision += f',"replica":"{replica}","queued_ms":{queued_ms}'
    return f"{draft[:-1]},{decision}}}"

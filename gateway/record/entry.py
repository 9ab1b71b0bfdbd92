"""The ledger entry: one finished request, exactly as it becomes one row of `gateway.audit_log`.

An entry is made once, when the request is settled or denied, and travels unchanged through the event stream;
writing it twice is harmless because (request_id, ts) is unique and both are part of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import TypeAdapter

from gateway.record.grant import Grant
from gateway.values import Outcome, Usage, UsageSource


@dataclass(frozen=True, slots=True)
class Entry:
    """One audit row. Tokens are counts, `ts_ms` is milliseconds since the epoch, durations are milliseconds.

    `tenant_id` and `key_id` are None when no key was verified; `status` is what the caller saw.
    """

    request_id: str
    ts_ms: int
    tenant_id: int | None
    tenant: str | None
    key_id: int | None
    key_prefix: str | None
    client_ip: str
    method: str
    path: str
    surface: str | None
    model: str | None
    backend: str | None
    status: int
    code: str | None
    outcome: Outcome
    stream: bool
    input_tokens: int
    output_tokens: int
    usage_source: UsageSource
    reserved_tokens: int
    ttft_ms: int | None
    duration_ms: int | None
    request_bytes: int
    response_bytes: int
    user_agent: str

    def to_json(self) -> str:
        """The event as it stands in the stream.

        Half a surrogate pair, which a header may hold, becomes a question mark: the event could not be read otherwise,
        and its row would be missing.
        """
        fields = {name: getattr(self, name) for name in self.__slots__}
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Entry:
        """Reads an event back. Raises ValueError when it is not exactly one, types included."""
        return _ADAPTER.validate_json(text, strict=True)


_ADAPTER = TypeAdapter(Entry)


def settled_entry(
    grant: Grant,
    *,
    backend: str | None,
    status: int,
    code: str | None,
    outcome: Outcome,
    usage: Usage,
    ttft_ms: int | None,
    duration_ms: int | None,
    response_bytes: int,
) -> Entry:
    """The entry of an admitted request: what was granted, and what became of it."""
    return Entry(
        request_id=grant.request_id,
        ts_ms=grant.admitted_at_ms,
        tenant_id=grant.tenant_id,
        tenant=grant.tenant,
        key_id=grant.key_id,
        key_prefix=grant.key_prefix,
        client_ip=grant.client_ip,
        method=grant.method,
        path=grant.path,
        surface=grant.surface,
        model=grant.model,
        backend=backend,
        status=status,
        code=code,
        outcome=outcome,
        stream=grant.stream,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        usage_source=usage.source,
        reserved_tokens=grant.input_estimate + grant.output_cap,
        ttft_ms=ttft_ms,
        duration_ms=duration_ms,
        request_bytes=grant.request_bytes,
        response_bytes=response_bytes,
        user_agent=grant.user_agent,
    )


def client_gone_entry(grant: Grant) -> Entry:
    """The entry of an admitted request whose caller left before any backend had heard of it."""
    return settled_entry(
        grant,
        backend=None,
        status=499,
        code=None,
        outcome=Outcome.CLIENT_GONE,
        usage=Usage(),
        ttft_ms=None,
        duration_ms=None,
        response_bytes=0,
    )

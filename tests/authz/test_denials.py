from __future__ import annotations

from collections.abc import Sequence

from authz.checked_request import CheckedRequest
from authz.denials import DenialContext, Denials
from gateway.errors import Code, Denied
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import TEXT_LENGTH_MAX
from gateway.record.entry import Entry
from tests.gateway.quota.builders import Clock, Ledger
from tests.gateway.quota.model.quota import MemoryQuota


class _Books:
    async def recorded(self, entries: Sequence[Entry]) -> frozenset[str]:
        return frozenset(entry.request_id for entry in entries)


async def test_a_path_as_long_as_a_caller_likes_does_not_wait_whole() -> None:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=10, load=Ledger().load, restore_s=0)
    denials = Denials(quota, Outbox(quota, _Books(), 10))
    attempt = CheckedRequest("r", "GET", "/api/" + "a" * 30_000, None, "192.0.2.1", "", "", b"")
    denial = Denied(Code.INVALID_API_KEY)
    assert await denials.record(attempt, DenialContext(), denial) is denial
    (event,) = await quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text).path == attempt.path[:TEXT_LENGTH_MAX]

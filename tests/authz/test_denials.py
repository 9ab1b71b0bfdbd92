from __future__ import annotations

from authz.checked_request import Body, CheckedRequest
from authz.denials import DenialLog
from gateway.errors import Code, Denied
from gateway.ledger.outbox import Outbox
from gateway.record.entry import Entry
from gateway.record.request import TEXT_LENGTH_MAX
from tests.gateway.quota.builders import Clock, Ledger
from tests.gateway.quota.model.quota import MemoryQuota


def _denial_log(quota: MemoryQuota) -> DenialLog:
    return DenialLog(Outbox(quota, settlements_max=10, denials_max=10))


async def test_the_stored_path_of_a_denied_request_is_bounded() -> None:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=10, load=Ledger().load, restore_s=0)
    checked = CheckedRequest("r", "GET", "/api/" + "a" * 30_000, None, "192.0.2.1", "", "", Body())
    assert await _denial_log(quota).record(checked.record(), Denied(Code.INVALID_API_KEY))
    (event,) = await quota.streams[0].read("test", 10, 0)
    assert Entry.from_json(event.text).path == checked.path[:TEXT_LENGTH_MAX]


async def test_a_full_backlog_takes_no_row_of_a_denial() -> None:
    quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=1, load=Ledger().load, restore_s=0)
    log = _denial_log(quota)
    checked = [CheckedRequest(f"r{n}", "GET", "/api/chat", None, "192.0.2.1", "", "", Body()) for n in range(3)]
    recorded = [await log.record(each.record(), Denied(Code.INVALID_API_KEY)) for each in checked]
    assert recorded == [True, True, False]

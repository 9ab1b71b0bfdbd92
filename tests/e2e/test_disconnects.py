"""Many streams that break off at once, over several meters: each row names the side that ended its stream.

The last test kills the stack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.wire.names import REQUEST_ID_HEADER
from meter.access_log.cause_stream import KEY
from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.load import MODEL
from tests.e2e.meter_logs import unknown_causes
from tests.e2e.open_streams import check_broken_off, disconnect, stream_opener
from tests.e2e.stack import Simulator, Stack, backends, simulator, up
from tests.polling import eventually
from tests.ports import free_port

STREAMS = 200
SETTLED_TIMEOUT_S = 60.0
SETTINGS = {
    "DEFAULT_CONCURRENT": str(STREAMS),
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
    "OLLAMA_MAX_CONNECTIONS": str(2 * STREAMS),
    # Shorter than the wait for a cause.
    "HOLD_LEASE_S": "4",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Simulator]:
    with simulator() as running:
        # Slow, so that all streams are open when the first one breaks off.
        running.behave(tokens_per_s=2)
        yield running


@pytest.fixture(scope="module")
def crowd(upstream: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state_dir = tmp_path_factory.mktemp("disconnects") / "state"
    here = ("--listen", f"127.0.0.1:{free_port()}")
    with up(state_dir, *here, "--workers", "2", **backends(sim=upstream.url), **SETTINGS) as stack:
        yield stack


@pytest.mark.parametrize(
    ("by_upstream", "expected"),
    [(False, ("client_gone", None, 200)), (True, ("upstream_error", "backend_error", 200))],
    ids=["the callers leave", "the backend dies"],
)
async def test_each_row_names_the_side_that_ended_its_stream(
    crowd: Stack, upstream: Simulator, by_upstream: bool, expected: tuple[str, str | None, int]
) -> None:
    key = crowd.new_key(f"tenant-{by_upstream}")
    async with stream_opener(crowd.url, key) as opener:
        answers = await opener.open([MODEL] * STREAMS)
        if by_upstream:
            upstream.process.kill()
            await check_broken_off(answers)
        else:
            disconnect(answers)
    request_ids = {answer.headers[REQUEST_ID_HEADER] for answer in answers}
    async with open_ledger_view(crowd) as ledger_view:
        await ledger_view.wait_until_settled(SETTLED_TIMEOUT_S)
        rows = await ledger_view.wait_for_rows(request_ids)
        assert await ledger_view.redis.xlen(KEY) > 0, "no cause went from one meter to another"
    found = Counter((row["outcome"], row["code"], row["status"]) for each in rows.values() for row in each)
    assert found == {expected: STREAMS}
    assert unknown_causes(crowd) == []


def test_no_process_remains_when_up_is_killed(crowd: Stack) -> None:
    pids = crowd.pids("")
    assert len(pids) >= 6
    crowd.process.kill()
    eventually(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids),
        failure=lambda: [pid for pid in pids if Path(f"/proc/{pid}").exists()],
    )
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{crowd.url}/healthz")

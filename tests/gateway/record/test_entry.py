from __future__ import annotations

from dataclasses import asdict, fields, replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.record.entry import Ending, Entry, denied_entry, settled_entry
from gateway.record.request import record_fields
from gateway.values import Outcome, Usage, UsageSource
from gateway.wire.surfaces import BY_NAME
from tests.meter.wire_corpus import grant_for
from tests.row_builders import entry

TEXTS = [field.name for field in fields(Entry) if field.type in ("str", "str | None") and field.name != "request_id"]
# Header bytes that are not UTF-8 arrive as lone surrogates.
written = st.text(max_size=20) | st.text(st.sampled_from("aü\ud800\udcff\x00"), max_size=20)


@given(texts=st.fixed_dictionaries(dict.fromkeys(TEXTS, written)))
def test_an_event_with_any_text_of_a_caller_can_be_read_back(texts: dict[str, str]) -> None:
    readable = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    made = replace(entry("a"), **texts)  # type: ignore[arg-type]
    assert Entry.from_json(made.to_json()) == replace(made, **readable)  # type: ignore[arg-type]


ENDING = Ending(Outcome.COMPLETE, 200, "code", "near", Usage(5, 6, UsageSource.EXACT), 7, 8, 9, None, 10)


def test_an_entry_is_the_record_of_its_request_and_its_ending() -> None:
    grant = grant_for(BY_NAME["chat"], admitted_at_ms=1, input_estimate=20, output_cap=300, request_bytes=4)
    settled = settled_entry(grant, ENDING)
    assert record_fields(settled) == record_fields(grant)
    assert asdict(settled) == record_fields(grant) | {
        "ts_ms": 1, "backend": "near", "status": 200, "code": "code", "outcome": Outcome.COMPLETE, "input_tokens": 5,
        "output_tokens": 6, "usage_source": UsageSource.EXACT, "reserved_tokens": 320, "ttft_ms": 7, "duration_ms": 8,
        "response_bytes": 9, "reason": None, "queued_ms": 10,
    }  # fmt: skip


def test_nothing_was_reserved_for_a_denied_request() -> None:
    denied = denied_entry(grant_for(BY_NAME["chat"], admitted_at_ms=1), 2, Ending(Outcome.DENIED, 401))
    assert (denied.ts_ms, denied.status, denied.reserved_tokens) == (2, 401, 0)

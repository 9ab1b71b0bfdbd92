from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.record.entry import Entry
from tests.row_builders import entry

TEXTS = [field.name for field in fields(Entry) if field.type in ("str", "str | None") and field.name != "request_id"]
# Bytes of a header that are no UTF-8 come as halves of surrogate pairs.
written = st.text(max_size=20) | st.text(st.sampled_from("aü\ud800\udcff\x00"), max_size=20)


@given(texts=st.fixed_dictionaries(dict.fromkeys(TEXTS, written)))
def test_whatever_a_caller_writes_the_event_can_be_read_back(texts: dict[str, str]) -> None:
    readable = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    made = replace(entry("a"), **texts)  # type: ignore[arg-type]
    assert Entry.from_json(made.to_json()) == replace(made, **readable)  # type: ignore[arg-type]

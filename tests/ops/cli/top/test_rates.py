"""Two scrapes become rates."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ops.cli.top.rates import DELIVERED_TOKENS, LEASES, REQUESTS, Denial, Samples, Scrape, activity, increase
from ops.cli.top.scrape import parse

PAGE = """
# HELP neuronetz_authz_requests_total Decided requests.
# TYPE neuronetz_authz_requests_total counter
neuronetz_authz_requests_total{surface="chat",code="ok"} 7.0
neuronetz_authz_requests_total{surface="chat",code="queue_full"} 2.0
neuronetz_leases 3.0
neuronetz_delivered_tokens_total{tenant="a \\"b\\" c"} 40.0
neuronetz_redis_failures_total 9.0
"""


def samples(values: Mapping[tuple[str, str, str], float]) -> Samples:
    """The samples by name, label and value of the label."""
    return {(name, frozenset({(label, value)})): number for (name, label, value), number in values.items()}


def tokens(at_s: float, **processes: float) -> Scrape:
    """A scrape of the tokens of one tenant, by process."""
    pages = {each: samples({(DELIVERED_TOKENS, "tenant", "acme"): count}) for each, count in processes.items()}
    return Scrape(at_s, pages)


def test_a_page_is_reduced_to_the_samples_that_are_needed() -> None:
    scrape = Scrape(0, {"one": parse(PAGE), "two": parse(PAGE)})
    assert scrape.total(LEASES) == 6
    assert scrape.by_label(REQUESTS, "code") == {"ok": 14, "queue_full": 4}
    assert scrape.by_label(DELIVERED_TOKENS, "tenant") == {'a "b" c': 80}
    assert {name for name, _ in scrape.processes["one"]} == {REQUESTS, LEASES, DELIVERED_TOKENS}


@pytest.mark.parametrize(
    ("earlier", "later", "rose"),
    [
        ({"one": 10, "two": 5}, {"one": 30, "two": 6}, {"acme": 21}),
        ({"one": 10}, {"one": 10}, {}),
        ({"one": 10}, {"one": 4}, {"acme": 4}),
        ({"one": 10}, {"one": 12, "started": 900}, {"acme": 2}),
        ({"one": 10, "ended": 7}, {"one": 12}, {"acme": 2}),
        ({}, {"one": 12}, {}),
    ],
)
def test_an_increase_counts_restarted_processes_from_zero_and_new_ones_from_their_first_scrape(
    earlier: dict[str, float], later: dict[str, float], rose: dict[str, float]
) -> None:
    assert increase(tokens(0, **earlier), tokens(2, **later), DELIVERED_TOKENS, "tenant") == rose


def test_a_series_that_appears_in_a_known_process_counts_from_zero() -> None:
    earlier, later = Scrape(0, {"one": samples({})}), tokens(2, one=6)
    assert activity(earlier, earlier, later).tokens_per_second == 3


def test_denials_are_those_of_the_window_and_the_most_recent_come_first() -> None:
    def scrape(at_s: float, ok: float, full: float, key: float) -> Scrape:
        counts = {(REQUESTS, "code", "ok"): ok, (REQUESTS, "code", "queue_full"): full}
        return Scrape(at_s, {"one": samples({**counts, (REQUESTS, "code", "invalid_api_key"): key})})

    now = activity(scrape(0, 1, 0, 90), scrape(58, 5, 2, 90), scrape(60, 9, 3, 90))
    assert now.denials == (Denial("queue_full", 3, 3), Denial("invalid_api_key", 0, 90))
    assert (now.window_s, now.requests_per_second) == (60, 2.5)

"""The metrics of a running stack: scraped as Prometheus does, and compared with the audit rows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import Code
from ops.embedded.metrics_targets import TARGETS_FILE
from ops.embedded.ports import bind_error, choose_free
from ops.embedded.state import open_state
from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.stack import Stack, backends, set_env, simulator, up
from tests.polling import eventually
from tests.ports import free_port
from tests.test_metrics_docs import PAGE

TENANTS_MAX = 2
TENANTS = ("first", "second", "third")
# Two, three and four requests of the tenants, on two surfaces each.
ADMITTED = 2 * (2 + 3 + 4)
SECRET_PROMPT = "a prompt that no label contains"

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of two workers that no other test uses, so that its metrics and its rows begin at zero."""
    state_dir = tmp_path_factory.mktemp("metrics") / "state"
    with open_state(state_dir) as state:
        state.env_file.touch(mode=0o600)
    set_env(state_dir, METRICS_LISTEN=f"127.0.0.1:{consecutive_ports(5)}", METRICS_TENANTS_MAX=str(TENANTS_MAX))
    set_env(state_dir, DEFAULT_RPM="10000", DEFAULT_TPM="10000000")
    with simulator() as ollama:
        listen = ("--listen", f"127.0.0.1:{free_port()}")
        with up(state_dir, *listen, "--workers", "2", **backends(sim=ollama.url)) as running:
            yield running


def consecutive_ports(count: int) -> int:
    """The first of `count` ports that are free now."""
    while True:
        first = choose_free("127.0.0.1")
        if all(bind_error("127.0.0.1", first + number) is None for number in range(count)):
            return first


@pytest.fixture(scope="module")
def keys(stack: Stack) -> list[str]:
    """The keys of three tenants, one more than those with their own label value, after traffic of each."""
    keys = [stack.new_key(name) for name in TENANTS]
    for number, key in enumerate(keys):
        headers = {"authorization": f"Bearer {key}"}
        for _ in range(number + 2):
            for path in ("/api/chat", "/v1/chat/completions"):
                message = {"role": "user", "content": SECRET_PROMPT}
                body = {"model": "llama3.2", "messages": [message], "stream": path == "/api/chat"}
                assert httpx.post(stack.url + path, json=body, headers=headers).status_code == 200
        assert httpx.post(f"{stack.url}/api/chat", json={"model": "none"}, headers=headers).status_code == 403
    assert httpx.post(f"{stack.url}/api/chat", json={"model": "none"}).status_code == 401
    return keys


def targets(stack: Stack) -> dict[str, str]:
    """The address of each process, as Prometheus reads it."""
    groups = json.loads((stack.state_dir / TARGETS_FILE).read_text())
    return {group["labels"]["process"]: group["targets"][0] for group in groups}


def scraped(stack: Stack) -> Samples:
    """The sums of all samples of the services, after all rows have arrived."""

    async def settled() -> None:
        async with open_ledger_view(stack) as view:
            await view.wait_until_settled()

    asyncio.run(settled())
    sums: Samples = defaultdict(float)
    for address in targets(stack).values():
        answer = eventually(partial(httpx.get, f"http://{address}/metrics"), retry_on=(httpx.TransportError,))
        assert answer.headers["content-type"].startswith("text/plain")
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                sums[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    return dict(sums)


def of(samples: Samples, name: str) -> dict[Labels, float]:
    """The samples of one metric."""
    return {labels: value for (each, labels), value in samples.items() if each == name}


async def audit_rows(stack: Stack) -> list[dict[str, Any]]:
    """All audit rows of the stack."""
    async with open_ledger_view(stack) as view:
        found = await view.rows([row["request_id"] for row in stack.cli("show-audit", "--limit", "1000")])
    return [row for (row,) in found.values()]


def test_the_sums_over_all_meters_equal_the_audit_rows(stack: Stack, keys: list[str]) -> None:
    assert keys
    samples = scraped(stack)
    rows = asyncio.run(audit_rows(stack))
    admitted = [row for row in rows if row["outcome"] != "denied"]
    assert len(admitted) == ADMITTED
    tokens = of(samples, "neuronetz_tokens_total")
    for kind in ("input", "output"):
        recorded = sum(row[f"{kind}_tokens"] for row in admitted)
        assert recorded > 0
        assert sum(value for labels, value in tokens.items() if ("kind", kind) in labels) == recorded
    counted = {
        (dict(labels)["outcome"], dict(labels)["surface"], dict(labels)["code"]): value
        for labels, value in of(samples, "neuronetz_ledger_rows_total").items()
    }
    assert counted == Counter((row["outcome"], row["surface"] or "none", row["code"] or "none") for row in rows)


def test_tenants_beyond_the_bound_share_a_value_in_each_meter(stack: Stack, keys: list[str]) -> None:
    assert keys
    for process, address in targets(stack).items():
        if process.startswith("meter"):
            text = httpx.get(f"http://{address}/metrics").text
            tenants = set(re.findall(r'neuronetz_tokens_total\{.*tenant="(\w+)"', text))
            assert len(tenants - {"other"}) <= TENANTS_MAX
            assert tenants <= {*TENANTS, "other"}


def test_requests_and_refusals_are_counted_by_surface_and_code(stack: Stack, keys: list[str]) -> None:
    assert keys
    found = {
        (dict(labels)["surface"], dict(labels)["code"]): value
        for labels, value in of(scraped(stack), "neuronetz_authz_requests_total").items()
    }
    assert found["chat", "ok"] == found["v1_chat", "ok"] == ADMITTED / 2
    assert found["chat", Code.MODEL_NOT_ALLOWED] == len(TENANTS)
    assert found["chat", Code.INVALID_API_KEY] == 1


def test_latencies_and_states_of_the_parts_are_there(stack: Stack, keys: list[str]) -> None:
    assert keys
    samples = scraped(stack)
    for name in (
        "neuronetz_check_seconds_count",
        "neuronetz_chunk_seconds_count",
        "neuronetz_postgres_seconds_count",
        "neuronetz_event_loop_lag_seconds_count",
        "neuronetz_argon2_seconds_count",
        "neuronetz_catalog_valid_seconds",
        "neuronetz_discovery_age_seconds",
    ):
        assert sum(of(samples, name).values()) > 0, name
    admissions = samples["neuronetz_redis_script_seconds_count", (("script", "admit"),)]
    # The first admission of a tenant is repeated when its counters have been built.
    assert admissions >= ADMITTED
    assert samples["neuronetz_backend_up", (("backend", "sim"),)] == 1
    at_rest = ("holds", "leases", "backlog_events", "drain_lag_seconds")
    assert [samples[f"neuronetz_{name}", ()] for name in at_rest] == [0, 0, 0, 0]
    assert sum(of(samples, "neuronetz_time_to_first_token_seconds_count").values()) == ADMITTED


def test_labels_are_the_documented_ones_and_hold_no_secret(stack: Stack, keys: list[str]) -> None:
    samples = scraped(stack)
    documented = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(\w+)` \| \w+ \|([^|]*)\|", PAGE, re.MULTILINE)
    }
    for name, labels in samples:
        family = name if name in documented else re.sub("_(bucket|count|sum)$", "", name)
        assert {label for label, _ in labels} - {"le"} <= documented[family], name
    texts = "\n".join(value for _, labels in samples for _, value in labels)
    ids = [row["request_id"] for row in stack.cli("show-audit", "--limit", "1000")]
    secrets = [*keys, *(key[:12] for key in keys), *ids, SECRET_PROMPT, "127.0.0.1"]
    assert [secret for secret in secrets if secret in texts] == []


def test_control_passes_on_envoys_own_statistics(stack: Stack, keys: list[str]) -> None:
    assert keys
    text = httpx.get(f"http://{targets(stack)['control']}/metrics/envoy").text
    names = {family.name for family in text_string_to_metric_families(text)}
    assert "envoy_cluster_upstream_rq" in names
    assert not any(key in text for key in keys)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/envoy", "//metrics", "/v1/../metrics"])
def test_no_public_path_leads_to_the_metrics(path: str, stack: Stack, keys: list[str]) -> None:
    for headers in ({}, {"authorization": f"Bearer {keys[0]}"}):
        answer = httpx.get(stack.url + path, headers=headers)
        assert answer.status_code in (400, 401, 403, 404)
        assert "neuronetz_" not in answer.text


def test_the_listeners_are_on_loopback(stack: Stack) -> None:
    assert {address.partition(":")[0] for address in targets(stack).values()} == {"127.0.0.1"}
    assert len(set(targets(stack).values())) == 5


def test_the_sockets_are_the_default(stack: Stack) -> None:
    """The state directory of this stack has sockets for everything but the metrics."""
    assert [path for path in Path(stack.state_dir / "run").glob("*metrics*") if path.exists()] == []


def test_the_recorded_tokens_survive_a_killed_meter(stack: Stack, keys: list[str]) -> None:
    """The last test, because a killed meter takes its own counts with it."""
    (killed,) = stack.pids("meter-0")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: stack.pids("meter-0") not in ([], [killed]))
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": SECRET_PROMPT}], "stream": False}
    answer = eventually(
        lambda: httpx.post(f"{stack.url}/api/chat", json=body, headers={"authorization": f"Bearer {keys[0]}"}),
        retry_on=(httpx.HTTPError,),
    )
    assert answer.status_code in (200, 503)
    recorded = of(scraped(stack), "neuronetz_recorded_tokens_total")
    rows = asyncio.run(audit_rows(stack))
    for kind in ("input", "output"):
        counted = sum(value for labels, value in recorded.items() if ("kind", kind) in labels)
        assert counted == sum(row[f"{kind}_tokens"] for row in rows) > 0

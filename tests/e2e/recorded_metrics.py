"""Scrapes every process of a running stack at an interval, as the series of a unit test of promtool."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ops.embedded.metrics_targets import TARGETS_FILE

INTERVAL_S = 5
TIMEOUT_S = 4.0
# `_` is no sample, and `stale` ends a series, as Prometheus does when a scrape fails.
NO_SAMPLE, STALE = "_", "stale"


def targets(state_dir: Path) -> dict[str, tuple[str, str]]:
    """The service and the URL of each scrape target, by its instance."""
    found = {}
    for group in json.loads((state_dir / TARGETS_FILE).read_text()):
        service, address = group["labels"]["service"], group["targets"][0]
        found[group["labels"]["process"]] = service, f"http://{address}/metrics"
        if service == "control":
            found["envoy"] = "envoy", f"http://{address}/metrics/envoy"
    return found


def scrape(url: str, names: Collection[str]) -> dict[str, float] | None:
    """The samples of these metrics by their names and labels, None when the target does not answer in time."""
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S)
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            # The parser adds a suffix to the counters of Envoy, which have none.
            name = sample.name if sample.name in names else sample.name.removesuffix("_total")
            if name in names:
                found[json.dumps([name, sample.labels])] = sample.value
    return found


def record(state_dir: Path, names: Collection[str], scrapes: int, act: Callable[[], None]) -> dict[str, str]:
    """The values of `scrapes` scrapes, in promtool's notation by series. Calls `act` in between, again and again."""
    series: dict[str, list[str]] = defaultdict(list)
    start_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for number in range(scrapes):
            found = targets(state_dir)
            results = pool.map(lambda target: scrape(target[1], names), found.values())
            for (instance, (service, _)), samples in zip(found.items(), results, strict=True):
                own = {"service": service, "instance": instance}
                values = {notation("up", own): 0.0 if samples is None else 1.0}
                for key, value in (samples or {}).items():
                    name, labels = json.loads(key)
                    values[notation(name, labels | own)] = value
                _append(series, values, number, f'instance="{instance}"')
            act()
            while time.monotonic() < start_s + (number + 1) * INTERVAL_S:
                act()
    return {name: " ".join(values) for name, values in sorted(series.items())}


def notation(name: str, labels: dict[str, str]) -> str:
    """A series in the notation of PromQL."""
    return f"{name}{{{','.join(f'{each}={json.dumps(value)}' for each, value in sorted(labels.items()))}}}"


def _append(series: dict[str, list[str]], values: dict[str, float], number: int, instance: str) -> None:
    for name in {*values, *(each for each in series if instance in each)}:
        samples = series[name]
        samples.extend([NO_SAMPLE] * (number - len(samples)))
        ended = not samples or samples[-1] in (STALE, NO_SAMPLE)
        samples.append(_number(values[name]) if name in values else NO_SAMPLE if ended else STALE)


def _number(value: float) -> str:
    return "NaN" if value != value else f"{value:.15g}"


def metrics_of(expressions: Collection[str]) -> set[str]:
    """The names of the metrics that these expressions read."""
    return {name for each in expressions for name in re.findall(r"\b(?:neuronetz|envoy|process)_\w+", each)}


def unit_test(name: str, series: dict[str, str], expected: str) -> dict[str, Any]:
    """A unit test of promtool: the alert `expected` fires at the end of the recording, and no other at any time."""
    scrapes = len(next(iter(series.values())).split())
    firing = 'group by (alertname) (ALERTS{alertstate="firing", alertname!=%s})'
    return {
        "name": name,
        "interval": f"{INTERVAL_S}s",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [
            {
                "expr": firing % '""',
                "eval_time": f"{(scrapes - 1) * INTERVAL_S}s",
                "exp_samples": [{"labels": f'{{alertname="{expected}"}}', "value": 1}],
            },
            *(
                {"expr": firing % f'"{expected}"', "eval_time": f"{number * INTERVAL_S}s", "exp_samples": []}
                for number in range(scrapes)
            ),
        ],
    }

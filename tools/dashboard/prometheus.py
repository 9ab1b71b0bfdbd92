"""A Prometheus on loopback that scrapes a gateway, and its HTTP API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from ops.embedded.metrics_targets import TARGETS_FILE
from ops.embedded.ports import choose_free
from tools.dashboard.panels import Panel, Series, Target, Window, fill_variables, read_series

SCRAPE_S = 2
_RULES = Path(__file__).parents[2] / "ops/prometheus/alerts.yaml"
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_QUERY_TIMEOUT_S = 30.0


class PrometheusError(Exception):
    """Prometheus did not start, or refused an expression."""


def find_prometheus() -> str | None:
    """The path of the program in the variable PROMETHEUS or on the PATH, None without one."""
    return shutil.which(os.environ.get("PROMETHEUS") or "prometheus")


@contextmanager
def start_prometheus(program: str, state_dir: Path, directory: Path) -> Iterator[httpx.Client]:
    """Runs Prometheus on a port of loopback for the gateway of `state_dir`, and ends it with the context.

    It stores its data in `directory` and scrapes every 2 s. Yields a client of its HTTP API. Raises PrometheusError
    when it does not become ready.
    """
    address = f"127.0.0.1:{choose_free('127.0.0.1')}"
    configuration = directory / "prometheus.yaml"
    configuration.write_text(yaml.safe_dump(_configuration(state_dir)))
    command = [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with (
        subprocess.Popen(command) as process,  # noqa: S603
        httpx.Client(base_url=f"http://{address}", timeout=_QUERY_TIMEOUT_S, trust_env=False) as client,
    ):
        try:
            _wait_until_ready(client, process)
            yield client
        finally:
            process.terminate()
            process.wait(timeout=_STOP_TIMEOUT_S)


def query_panel(client: httpx.Client, panel: Panel, window: Window) -> list[Series]:
    """Evaluates the expressions of a panel over the window. Raises PrometheusError for an invalid one."""
    return [series for target in panel.targets for series in _query(client, panel, target, window)]


def _query(client: httpx.Client, panel: Panel, target: Target, window: Window) -> Sequence[Series]:
    expression = fill_variables(target.expression, window)
    parameters: dict[str, str | float] = {
        "query": expression,
        "start": window.start_s,
        "end": window.end_s,
        "step": window.step_s,
    }
    answer = client.get("/api/v1/query_range", params=parameters).json()
    if answer["status"] != "success":
        raise PrometheusError(f"panel {panel.title!r}: {expression}: {answer['error']}")
    return read_series(answer["data"]["result"], target.legend, window.start_s)


def _configuration(state_dir: Path) -> dict[str, Any]:
    targets = state_dir / TARGETS_FILE
    groups = json.loads(targets.read_text())
    control = next(group["targets"] for group in groups if group["labels"]["service"] == "control")
    envoy = {"targets": control, "labels": {"service": "envoy"}}
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(_RULES)],
        "scrape_configs": [
            {"job_name": "neuronetz-gateway", "file_sd_configs": [{"files": [str(targets)]}]},
            {"job_name": "neuronetz-gateway-envoy", "metrics_path": "/metrics/envoy", "static_configs": [envoy]},
        ],
    }


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            # It does not listen yet.
            pass
        time.sleep(0.1)
    raise PrometheusError("Prometheus did not become ready")

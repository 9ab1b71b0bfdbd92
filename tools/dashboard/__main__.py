"""`python -m tools.dashboard FILE` writes the picture of the dashboard with real data to FILE.

It starts a simulated Ollama, a gateway with two tenants and a Prometheus, sends a varied load for 90 s, and evaluates
every expression of ops/grafana/dashboard.json. Panels without data are named on stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from authz.keys.key_format import generate
from ops.checkpoint.key_file import read_or_create
from ops.embedded.ports import bind_error, choose_free
from tools.dashboard.load import send_load
from tools.dashboard.panels import Panel, Series, Window, read_panels
from tools.dashboard.picture import draw_dashboard
from tools.dashboard.prometheus import SCRAPE_S, PrometheusError, find_prometheus, query_panel, start_prometheus
from tools.pictures.product import Product, run_command, start_product

_DASHBOARD = Path(__file__).parents[2] / "ops/grafana/dashboard.json"
_HOST = "127.0.0.1"
_LOAD_S = 90
# The scrapes before the load, which a rate needs for its first value.
_BEFORE_S = 5 * SCRAPE_S
_MISSING = "Prometheus was not found: install it (Debian: apt install prometheus) or set PROMETHEUS to its path."
_TITLE = "The dashboard with the data of 90 seconds"


def main(arguments: Sequence[str]) -> int:
    """Writes the picture. Returns the exit code."""
    program = find_prometheus()
    if program is None:
        print(_MISSING, file=sys.stderr)  # noqa: T201
        return 1
    target = Path(arguments[0])
    panels = read_panels(json.loads(_DASHBOARD.read_text(encoding="utf-8")))
    try:
        window, series = _measure(program, panels)
    except PrometheusError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    for panel in panels:
        if panel.kind != "row" and not series[panel]:
            print(f"no data in this run: {panel.title}", file=sys.stderr)  # noqa: T201
    target.write_text(draw_dashboard(_TITLE, panels, series, window), encoding="utf-8")
    print(target)  # noqa: T201
    return 0


def _measure(program: str, panels: Sequence[Panel]) -> tuple[Window, Mapping[Panel, Sequence[Series]]]:
    """Sends the load to a new gateway. Returns its time and the series of each panel. Raises PrometheusError."""
    with tempfile.TemporaryDirectory(prefix="neuronetz-dashboard-") as home, _start(Path(home)) as product:
        keys = _create_keys(product)
        state_dir = Path(product.env["GATEWAY_ENV_FILE"]).parent
        with start_prometheus(program, state_dir, product.home) as prometheus:
            window = _run_load(product, keys)
            return window, {panel: query_panel(prometheus, panel, window) for panel in panels}


def _start(home: Path) -> AbstractContextManager[Product]:
    """A gateway with metrics on TCP ports and signed checkpoints, whose backend runs four requests at a time."""
    key_file = home / "audit.key"
    read_or_create(key_file, "dashboard")
    settings = {
        "METRICS_LISTEN": f"{_HOST}:{_choose_ports(3)}",
        "CHECKPOINT_KEY_FILE": str(key_file),
        "CHECKPOINT_FILE": str(home / "checkpoints"),
        "CHECKPOINT_INTERVAL_S": "60",
        "DEFAULT_RPM": "6000",
        "DEFAULT_TPM": "10000000",
    }
    return start_product(home, settings, ("--num-parallel", "4", "--prefill-tokens-per-s", "200"))


def _choose_ports(count: int) -> int:
    """The first of `count` consecutive free ports."""
    while True:
        first = choose_free(_HOST)
        if not any(bind_error(_HOST, port) for port in range(first, first + count)):
            return first


def _create_keys(product: Product) -> Mapping[str, str]:
    """The keys of the callers by name. One has a low limit, and one is not a key of this gateway."""

    def create(tenant: str, name: str, *limits: str) -> str:
        arguments = ("create-key", "--tenant", tenant, "--name", name, *limits)
        return str(run_command(product.env, *arguments)["key"])

    run_command(product.env, "set-budget", "--tenant", "acme", "--daily", "1000000")
    return {
        "laptop": product.key,
        "codex": create("research", "agent"),
        "limited": create("acme", "limited", "--rpm", "5"),
        "unknown": generate().secret.get_secret_value(),
    }


def _run_load(product: Product, keys: Mapping[str, str]) -> Window:
    """Sends the load. Returns its time."""
    time.sleep(_BEFORE_S)
    started_s = time.time()
    asyncio.run(send_load(product.url, keys, _LOAD_S))
    return Window(started_s, started_s + _LOAD_S, SCRAPE_S, SCRAPE_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Each fault of docs/alerts.md fires exactly its alert within a minute.

A fault is driven on a running stack while its metrics are scraped, and promtool evaluates ops/prometheus/alerts.yaml
over what was scraped. That takes 20 minutes: `make alerts` does it and writes the recordings to
ops/prometheus/alerts_test.yaml. The other tests evaluate these recordings wherever promtool is installed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.settings import load
from gateway.stores.postgres import Database
from ops.embedded.state import open_state
from tests.e2e import recorded_metrics
from tests.e2e.stack import Simulator, Stack, set_env, simulator, up
from tests.e2e.test_metrics import consecutive_ports
from tests.polling import eventually
from tests.ports import free_port
from tests.yaml_text import load_yaml

PROMETHEUS = Path(__file__).parents[2] / "ops/prometheus"
RULES = PROMETHEUS / "alerts.yaml"
RECORDED = PROMETHEUS / "alerts_test.yaml"
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
# Two scrapes before the fault and 50 s of it.
BEFORE, SCRAPES = 2, 12
MODEL = "llama3.2:latest"

RECORD = os.environ.get("RECORD_ALERTS") == "1"

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
drives_faults = pytest.mark.skipif(not RECORD, reason="takes 20 minutes: make alerts")


@dataclass(frozen=True, slots=True)
class Trial:
    """The stack, its two backends and a key that all authz workers have verified."""

    stack: Stack
    near: Simulator
    far: Simulator
    key: str

    def chat(self, stream: bool = False, read: bool = True) -> None:
        """One request, whatever its result. Without `read`, the caller disconnects after the first bytes."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            with httpx.stream("POST", f"{self.stack.url}/api/chat", json=body, headers=headers, timeout=5) as answer:
                for _ in answer.iter_raw():
                    if not read:
                        break
        except httpx.HTTPError:
            pass
        time.sleep(0.3)


@contextmanager
def stopped(*simulators: Simulator) -> Iterator[None]:
    for each in simulators:
        each.stop()
    try:
        yield
    finally:
        for each in simulators:
            each.start()


@contextmanager
def behaving(simulators: tuple[Simulator, ...], **behaviour: Any) -> Iterator[None]:
    for each in simulators:
        each.behave(**behaviour)
    try:
        yield
    finally:
        for each in simulators:
            each.behave()


def killed(trial: Trial, prefix: str, with_signal: int = signal.SIGKILL) -> AbstractContextManager[None]:
    os.kill(trial.stack.pids(prefix)[0], with_signal)
    return nullcontext()


def faulty(trial: Trial, *kinds: dict[str, Any], near_only: bool = False) -> AbstractContextManager[None]:
    simulators = (trial.near,) if near_only else (trial.near, trial.far)
    return behaving(simulators, faults=list(kinds), tokens_per_s=50)


@contextmanager
def refusing(trial: Trial) -> Iterator[None]:
    """PostgreSQL refuses every audit row."""
    alter_audit_log(trial.stack, "ADD CONSTRAINT refusing CHECK (false) NOT VALID")
    try:
        yield
    finally:
        alter_audit_log(trial.stack, "DROP CONSTRAINT refusing")


def alter_audit_log(stack: Stack, change: str) -> None:
    async def run() -> None:
        database = Database(load(Path(stack.ready["env_file"])))
        await database.execute(f"ALTER TABLE gateway.audit_log {change}")
        await database.close()

    asyncio.run(run())


Fault = Callable[[Trial], AbstractContextManager[None]]
UNHEALTHY = {"kind": "status", "status": 500, "paths": ["/api/tags"]}
# The fault, the alert, and the options of the requests during it.
FAULTS: dict[str, tuple[Fault, str, dict[str, bool]]] = {
    "Redis hangs": (lambda t: t.stack.frozen("redis"), "GatewayRedisUnavailable", {}),
    "Redis restarts": (lambda t: killed(t, "redis"), "GatewayRedisLostData", {}),
    "PostgreSQL hangs": (lambda t: t.stack.frozen("postgres"), "GatewayPostgresUnavailable", {}),
    "every authz hangs": (lambda t: t.stack.frozen("authz-"), "GatewayAuthzDown", {}),
    "every meter hangs": (lambda t: t.stack.frozen("meter-"), "GatewayMeterDown", {}),
    "one authz hangs": (lambda t: t.stack.frozen("authz-0"), "GatewayWorkerDown", {}),
    "one authz is killed": (lambda t: killed(t, "authz-0"), "GatewayWorkerRestarted", {}),
    "one meter is killed": (lambda t: killed(t, "meter-0"), "GatewayWorkerRestarted", {"stream": True}),
    "SIGTERM to one meter": (lambda t: killed(t, "meter-1", signal.SIGTERM), "GatewayWorkerRestarted", {}),
    "control hangs": (lambda t: t.stack.frozen("control"), "GatewayControlDown", {}),
    "Envoy hangs": (lambda t: t.stack.frozen("envoy"), "GatewayEnvoyDown", {}),
    "every process hangs": (lambda t: t.stack.frozen(""), "GatewayDown", {}),
    "every backend is down": (lambda t: stopped(t.near, t.far), "GatewayRequestsFailed", {}),
    "one backend is down": (lambda t: stopped(t.near), "GatewayBackendDown", {}),
    "a backend fails before its answer": (
        lambda t: faulty(t, {"kind": "reset"}, near_only=True),
        "GatewayBackendFailsOver",
        {},
    ),
    "backends fail in mid-answer": (
        lambda t: faulty(t, {"kind": "reset", "after_frames": 12}),
        "GatewayAnswersBrokenOff",
        {"stream": True},
    ),
    "callers disconnect": (faulty, "GatewayCallersDisconnect", {"stream": True, "read": False}),
    "no backend answers discovery": (lambda t: faulty(t, UNHEALTHY), "GatewayCatalogExpired", {}),
    "PostgreSQL refuses rows": (refusing, "GatewayRowsRejected", {}),
}
# Faults that take long to drive, as series.
MADE: dict[str, tuple[dict[str, str], str]] = {
    "finished requests wait for PostgreSQL": (
        {'neuronetz_authz_requests_total{code="audit_backlog",surface="chat"}': "0 0 0 2 5 9 9 9 9 9 9 9"},
        "GatewayAuditBacklog",
    ),
    "a checkpoint is not delivered": (
        {"neuronetz_checkpoint_failures_total": "0 0 0 1 2 2 2 3 3 3 3 3"},
        "GatewayCheckpointFailed",
    ),
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    state_dir = tmp_path_factory.mktemp("alerts") / "state"
    with open_state(state_dir) as state:
        state.env_file.touch(mode=0o600)
    set_env(state_dir, METRICS_LISTEN=f"127.0.0.1:{consecutive_ports(5)}", DEFAULT_RPM="10000", DEFAULT_TPM="10000000")
    set_env(state_dir, MODEL_DISCOVERY_REFRESH_S="2", MODEL_DISCOVERY_CACHE_TTL_S="10")
    with ExitStack() as stack:
        near, far = stack.enter_context(simulator()), stack.enter_context(simulator())
        listen = (
            "--listen",
            f"127.0.0.1:{free_port()}",
            "--backend",
            f"near={near.url}",
            "--backend",
            f"far={far.url}",
        )
        running = stack.enter_context(up(state_dir, *listen, "--workers", "2"))
        yield Trial(running, near, far, running.new_key("alerts"))


@pytest.fixture(scope="module")
def recordings() -> Iterator[dict[str, Any]]:
    """The unit tests of the faults that ran, by name; written to the file on request."""
    made: dict[str, Any] = {}
    yield made
    if RECORD:
        before = load_yaml(RECORDED.read_text())["tests"] if RECORDED.exists() else []
        tests = {each["name"]: each for each in before} | made
        RECORDED.write_text(document([tests[name] for name in (*FAULTS, *MADE) if name in tests]))


def document(tests: list[dict[str, Any]], rules: str = "alerts.yaml") -> str:
    whole = {"rule_files": [rules], "evaluation_interval": f"{recorded_metrics.INTERVAL_S}s", "tests": tests}
    return yaml.safe_dump(whole, sort_keys=False, width=10_000)


def rules() -> list[dict[str, Any]]:
    return [rule for group in load_yaml(RULES.read_text())["groups"] for rule in group["rules"]]


def healthy(trial: Trial) -> bool:
    """Whether a request is served by every worker and every target answers."""
    for _ in range(6):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
        headers = {"Authorization": f"Bearer {trial.key}"}
        if httpx.post(f"{trial.stack.url}/api/chat", json=body, headers=headers, timeout=5).status_code != 200:
            return False
    found = recorded_metrics.targets(trial.stack.state_dir)
    return all(recorded_metrics.scrape(url, {"neuronetz_backend_up"}) is not None for _, url in found.values())


@needs_promtool
@drives_faults
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fires_exactly_its_alert(trial: Trial, recordings: dict[str, Any], tmp_path: Path, name: str) -> None:
    fault, alert, options = FAULTS[name]
    names = recorded_metrics.metrics_of([rule["expr"] for rule in rules()])
    eventually(lambda: healthy(trial), 60, retry_on=(httpx.HTTPError,))
    with ExitStack() as stack:
        pending, started = [fault], time.monotonic()

        def act() -> None:
            # The fault begins after the second scrape.
            if pending and time.monotonic() - started > (BEFORE - 1) * recorded_metrics.INTERVAL_S + 0.5:
                stack.enter_context(pending.pop()(trial))
            trial.chat(**options)

        series = recorded_metrics.record(trial.stack.state_dir, names, SCRAPES, act)
    recordings[name] = recorded_metrics.unit_test(name, series, alert)
    check(recordings[name], tmp_path)


@needs_promtool
@pytest.mark.parametrize("name", MADE)
def test_made_series_fire_exactly_their_alert(recordings: dict[str, Any], tmp_path: Path, name: str) -> None:
    recordings[name] = recorded_metrics.unit_test(name, *MADE[name])
    check(recordings[name], tmp_path)


@needs_promtool
def test_the_recorded_faults_fire_exactly_their_alerts() -> None:
    promtool("test", "rules", str(RECORDED))
    promtool("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yaml"))


def check(test: dict[str, Any], directory: Path) -> None:
    path = directory / "test.yaml"
    path.write_text(document([test], str(RULES)))
    promtool("test", "rules", str(path))


def promtool(*arguments: str) -> None:
    checked = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""What `doctor`, `list-models` and `verify-audit` report about a running stack."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.stack import Simulator, Stack
from tests.ops.cli.conftest import Operator
from tests.polling import eventually

MODEL = "llama3.2:latest"


def problems(stack: Stack) -> list[tuple[str, str, str]]:
    """The findings of `doctor` as (name, status, line), without those that are ok."""
    # Wide enough for every finding to be one line.
    done = Operator(Path(stack.ready["env_file"]), {**stack.settings, "COLUMNS": "1000"}).run("doctor")
    assert done.stderr == ""
    lines = done.stdout.splitlines()[:-1]
    assert done.exit_code == any(line.startswith("failed") for line in lines)
    assert len(lines) > 15
    rows = [(line[9:].split("  ")[0].strip(), line.split()[0], line) for line in lines]
    return [row for row in rows if row[1] != "ok"]


def test_doctor_finds_no_problem_in_a_healthy_stack(
    stack: Stack, ollama: Simulator, spare: Simulator, key: str
) -> None:
    # A worker or backend that an earlier test stopped becomes healthy again.
    eventually(lambda: not problems(stack), 30, failure=lambda: problems(stack))
    (tls,) = (check for check in stack.cli("doctor") if check["name"] == "tls")
    assert tls["detail"] == f"{stack.ready['tls_url']} answers"


def test_doctor_finds_problems_of_backends_the_catalog_and_workers(
    stack: Stack, ollama: Simulator, spare: Simulator, key: str
) -> None:
    installed = httpx.get(f"{spare.url}/_sim/models").json()
    other = [{"name": MODEL, "digest": "f" * 64}, *(row["name"] for row in installed if row["name"] != MODEL)]
    httpx.put(f"{spare.url}/_sim/models", json=other).raise_for_status()
    spare.behave(version="0.12.0")
    worker = stack.pids("authz-")[0]
    try:
        listed = eventually(lambda: found if (found := stack.cli("list-models"))["warnings"][1:] else None)
        os.kill(worker, signal.SIGSTOP)
        found = {name: status for name, status, _ in problems(stack)}
    finally:
        os.kill(worker, signal.SIGCONT)
        spare.behave()
        httpx.put(f"{spare.url}/_sim/models", json=[row["name"] for row in installed]).raise_for_status()
    assert {found[name] for name in ("backend spare", "catalog", "readiness")} == {"warning"}
    assert [(b["name"], b["version_too_old"]) for b in listed["backends"]] == [("sim", False), ("spare", True)]
    assert [model["name"] for model in listed["models"] if model["digests_differ"]] == [MODEL]
    eventually(lambda: not stack.cli("list-models")["warnings"])


def test_models_are_listed_by_backend_combined_and_by_tenant(stack: Stack, ollama: Simulator, key: str) -> None:
    stack.cli("create-tenant", "--name", "lists", "--models", f"{MODEL},missing")
    body: Any = {"model": MODEL, "prompt": "Hello", "stream": False}
    httpx.post(f"{stack.url}/api/generate", json=body, headers={"x-api-key": key}).raise_for_status()

    def listing() -> Any:
        listed = stack.cli("list-models", "--tenant", "LISTS")
        (model,) = (model for model in listed["models"] if model["name"] == MODEL)
        return listed if "sim" in model["loaded"] else None

    listed = eventually(listing)
    assert listed["tenant"] == {"name": "lists", "models": [MODEL]}
    assert [(backend["name"], backend["answers"]) for backend in listed["backends"]] == [("sim", True), ("spare", True)]
    (model,) = (model for model in listed["models"] if model["name"] == MODEL)
    assert model["backends"] == ["sim", "spare"]
    (on_sim,) = (row for row in listed["backends"][0]["models"] if row["name"] == MODEL)
    assert on_sim["loaded"]
    assert len(on_sim["digest"]) == 64


def test_control_seals_requests_and_policy_changes_into_the_audit_chain(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    """The first link may have only the changes that made the tenant; the next one comes a minute later."""
    body: Any = {"model": MODEL, "prompt": "Hello", "stream": False}
    httpx.post(f"{stack.url}/api/generate", json=body, headers={"x-api-key": key}).raise_for_status()
    verified = eventually(lambda: found if (found := stack.cli("verify-audit"))["links"] else None)
    assert verified["changes"] > 0
    assert verified["rows"] + verified["unsealed_rows"] > 0
    assert verified["problems"] == []

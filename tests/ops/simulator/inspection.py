"""Reads and sets the state of a running simulator."""

from typing import Any

from ops.simulator.app import RunningSimulator
from ops.simulator.control.behaviour import Fault
from ops.simulator.control.recorder import Record
from tests.ops.simulator.raw_http import call


def inject(server: RunningSimulator, kind: str, **fields: Any) -> None:
    """Replaces the faults of the server by one."""
    server.simulator.behaviour.faults = [Fault.model_validate({"kind": kind, **fields})]


def last_record(server: RunningSimulator) -> Record:
    return server.simulator.recorder.records[-1]


async def installed_names(server: RunningSimulator) -> set[str]:
    return {row["name"] for row in (await call(server.url, "/api/tags")).json()["models"]}

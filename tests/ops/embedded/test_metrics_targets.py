from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.embedded import metrics_targets
from ops.embedded.configuration import Sockets
from ops.embedded.errors import StackError
from ops.embedded.state import open_state


@pytest.mark.parametrize("listen", [None, "unix:/somewhere/else"])
def test_every_process_has_its_own_socket(listen: str | None, tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        found = metrics_targets.addresses(listen, Sockets(state, 2))
        metrics_targets.write(state, found)
        assert found["authz-1"] == f"unix:{state.sockets}/authz-1-metrics.sock"
        assert set(found) == {"control", "authz-0", "authz-1", "meter-0", "meter-1"}
        assert len(set(found.values())) == 5
        assert json.loads((state.root / metrics_targets.TARGETS_FILE).read_text()) == []


def test_a_port_is_the_first_of_consecutive_ones_and_prometheus_finds_them(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        found = metrics_targets.addresses("127.0.0.1:9100", Sockets(state, 1))
        metrics_targets.write(state, found)
        targets = json.loads((state.root / metrics_targets.TARGETS_FILE).read_text())
    assert found == {"control": "127.0.0.1:9100", "authz-0": "127.0.0.1:9101", "meter-0": "127.0.0.1:9102"}
    assert targets[1] == {"targets": ["127.0.0.1:9101"], "labels": {"service": "authz", "process": "authz-0"}}


def test_ports_beyond_the_last_one_are_refused_with_the_setting(tmp_path: Path) -> None:
    message = r"METRICS_LISTEN=127\.0\.0\.1:65533: expected 5 ports"
    with open_state(tmp_path / "s") as state, pytest.raises(StackError, match=message):
        metrics_targets.addresses("127.0.0.1:65533", Sockets(state, 2))

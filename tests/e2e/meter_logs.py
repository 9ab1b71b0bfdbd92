"""What the meters of a running stack logged."""

from __future__ import annotations

import json

from tests.e2e.stack import Stack


def unknown_causes(stack: Stack) -> list[dict[str, object]]:
    """The events about answers that broke off and for which no record of Envoy arrived."""
    lines = [line for path in (stack.state_dir / "logs").glob("meter-*.log") for line in path.open()]
    assert lines
    documents = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in documents if each["event"] == "cause_unknown"]

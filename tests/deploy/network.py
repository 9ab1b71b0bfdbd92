"""What NetworkPolicies let through, decided as Kubernetes documents it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Labels = Mapping[str, str]
Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod with its labels, in a namespace with labels of its own; `home` is the namespace of the policies."""

    labels: Labels
    namespace: str = "home"
    namespace_labels: Labels = field(default_factory=dict)


def allowed(policies: Sequence[Policy], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether `source` may connect: its own policies let it out, and those of `target` let it in."""
    return _lets(policies, "Egress", source, target, port, protocol) and _lets(
        policies, "Ingress", target, source, port, protocol
    )


def _lets(policies: Sequence[Policy], direction: str, owner: Pod, other: Pod, port: int, protocol: str) -> bool:
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    selecting = [
        policy["spec"]
        for policy in policies
        if owner.namespace == "home"
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], owner.labels)
    ]
    if not selecting:
        return True
    return any(
        any(_is_peer(peer, other) for peer in rule[peers])
        and any(each["port"] == port and each.get("protocol", "TCP") == protocol for each in rule["ports"])
        for spec in selecting
        for rule in spec.get(rules, ())
    )


def _is_peer(peer: Mapping[str, Any], pod: Pod) -> bool:
    if "namespaceSelector" in peer:
        in_namespace = _selects(peer["namespaceSelector"], pod.namespace_labels)
    else:
        in_namespace = pod.namespace == "home"
    return in_namespace and _selects(peer.get("podSelector", {}), pod.labels)


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, unknown
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())

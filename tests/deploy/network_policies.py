"""Evaluates NetworkPolicies by the rules that Kubernetes documents. Pure.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Labels = Mapping[str, str]
Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod and its namespace, both with labels. `home` is the namespace of the policies."""

    labels: Labels
    namespace: str = "home"
    namespace_labels: Labels = field(default_factory=dict)


def allowed(policies: Sequence[Policy], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the egress policies of `source` and the ingress policies of `target` allow the connection."""
    return _allows(policies, "Egress", source, target, port, protocol) and _allows(
        policies, "Ingress", target, source, port, protocol
    )


def _allows(policies: Sequence[Policy], direction: str, pod: Pod, peer: Pod, port: int, protocol: str) -> bool:
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    selecting = [
        policy["spec"]
        for policy in policies
        if pod.namespace == "home"
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not selecting:
        return True
    return any(
        any(_matches(selector, peer) for selector in rule[peers])
        and any(each["port"] == port and each.get("protocol", "TCP") == protocol for each in rule["ports"])
        for spec in selecting
        for rule in spec.get(rules, ())
    )


def _matches(peer: Mapping[str, Any], pod: Pod) -> bool:
    """Whether a NetworkPolicyPeer selects the pod."""
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

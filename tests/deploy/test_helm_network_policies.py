"""The NetworkPolicies of the Helm chart allow exactly the connections that the gateway needs."""

from __future__ import annotations

from tests.deploy.manifests import VALUES, Manifest, of_kind, pod, rendered
from tests.deploy.network_policies import Pod, allowed

INGRESS = Pod({"app": "nginx"}, "ingress-nginx", {"kubernetes.io/metadata.name": "ingress-nginx"})
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system", {"kubernetes.io/metadata.name": "kube-system"})
STRANGER = Pod({"app": "stranger"})
INTERNET = Pod({}, "elsewhere", {})
STORES = {
    name: Pod({"app.kubernetes.io/name": label})
    for name, label in (("postgresql", "postgresql"), ("redis", "redis"), ("ollama", "ollama"))
}
# Every allowed connection: source, target and port.
ALLOWED = {
    ("ingress", "envoy", 8080),
    ("envoy", "authz", 9001),
    ("envoy", "authz", 9002),
    ("envoy", "meter", 9003),
    ("envoy", "ollama", 11434),
    *((source, "postgresql", 5432) for source in ("authz", "meter", "envoy", "migrate")),
    *((source, "redis", 6379) for source in ("authz", "meter", "envoy")),
}
PORTS = (8080, 9001, 9002, 9003, 9004, 9100, 9901, 5432, 6379, 11434, 443)


def test_exactly_the_needed_connections_are_allowed(manifests: list[Manifest]) -> None:
    policies = list(of_kind(manifests, "NetworkPolicy").values())
    own = {component: pod(manifests, component) for component in ("authz", "meter", "envoy", "migrate")}
    pods = {**own, **STORES, "ingress": INGRESS, "stranger": STRANGER, "internet": INTERNET}
    guarded = {*own, *STORES}
    found = {
        (source, target, port)
        for source in pods
        for target in pods
        for port in PORTS
        # The policies do not restrict connections between other pods.
        if (source in own or target in guarded) and allowed(policies, pods[source], pods[target], port)
    }
    assert found == ALLOWED
    assert all(allowed(policies, each, DNS, 53, "UDP") for each in own.values())


def test_values_allow_a_prometheus_to_scrape_the_metrics_and_nothing_else() -> None:
    prometheus = Pod({"app": "prometheus"}, "monitoring", {"team": "ops"})
    peers = [{"namespaceSelector": {"matchLabels": {"team": "ops"}}}]
    manifests = rendered({**VALUES, "networkPolicy": {"prometheus": peers}})
    policies = list(of_kind(manifests, "NetworkPolicy").values())
    own = {component: pod(manifests, component) for component in ("authz", "meter", "envoy", "migrate")}
    found = {(name, port) for name in own for port in PORTS if allowed(policies, prometheus, own[name], port)}
    assert found == {("authz", 9100), ("meter", 9100), ("envoy", 9100)}
    assert not allowed(policies, STRANGER, own["authz"], 9100)


def test_values_allow_stores_in_other_namespaces() -> None:
    far = Pod({"app": "ollama"}, "models", {"team": "ml"})
    rule = {"to": [{"namespaceSelector": {"matchLabels": {"team": "ml"}}}], "ports": [443]}
    manifests = rendered({**VALUES, "networkPolicy": {"ollama": rule, "guarded": {"ollama": {}}}})
    policies = list(of_kind(manifests, "NetworkPolicy").values())
    assert allowed(policies, pod(manifests, "envoy"), far, 443)
    assert not allowed(policies, pod(manifests, "meter"), far, 443)
    assert not allowed(policies, pod(manifests, "envoy"), STORES["ollama"], 11434)

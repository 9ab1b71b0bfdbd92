"""The clusters as they stand in cds.yaml, and in which order Envoy gets others. Pure.

A request names its clusters when it is admitted and may fail over long after, so clusters are never simply replaced:

1. Headers that will carry a credential are stripped by every cluster before any cluster adds one. Fail-over may take a
   request from a new cluster to one that is still the old, and what the first added is still in it.
2. New and changed clusters come beside those that go. Only when Envoy has taken them may a request name them.
3. Those that go are left out once no request can name them any more.

What a cluster strips only grows while it lives: a request with the old header may still be on its way.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Cluster = dict[str, Any]
Clusters = Mapping[str, Cluster]
"""Clusters by name, each as protobuf JSON with its `@type`."""

_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def version_of(clusters: Clusters) -> str:
    """What Envoy reports as `cds.version_text` once it has taken exactly these clusters."""
    ordered = [clusters[name] for name in sorted(clusters)]
    return hashlib.sha256(json.dumps(ordered, sort_keys=True).encode()).hexdigest()[:16]


def document(clusters: Clusters) -> bytes:
    """The content of cds.yaml."""
    resources = [clusters[name] for name in sorted(clusters)]
    return json.dumps({"version_info": version_of(clusters), "resources": resources}, indent=1).encode()


def parse(content: bytes) -> Clusters:
    """The clusters of a cds.yaml that `document` made. Raises ValueError for anything else."""
    try:
        return {resource["name"]: resource for resource in json.loads(content)["resources"]}
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of clusters") from error


def secrets_of(clusters: Clusters) -> set[str]:
    """Names of the secrets that the clusters ask SDS for: credentials and authorities."""
    credentials = {
        each["typed_config"]["credential"]["typed_config"]["credential"]["name"]
        for cluster in clusters.values()
        for each in _filters(cluster)
        if each["name"] == "envoy.filters.http.credential_injector"
    }
    contexts = (
        cluster["transport_socket"]["typed_config"]["common_tls_context"]
        for cluster in clusters.values()
        if "transport_socket" in cluster
    )
    authorities = {
        context["combined_validation_context"]["validation_context_sds_secret_config"]["name"]
        for context in contexts
        if "combined_validation_context" in context
    }
    return credentials | authorities


def stripped_by(clusters: Clusters) -> set[str]:
    """Every header that some cluster takes away from a request before it adds its own."""
    return {mutation["remove"] for cluster in clusters.values() for mutation in _removals(cluster)}


def strip_also(clusters: Clusters, headers: Collection[str]) -> Clusters:
    """The clusters, each of which takes `headers` away too."""
    widened = copy.deepcopy(dict(clusters))
    for cluster in widened.values():
        removals = _removals(cluster)
        removals[:] = [{"remove": name} for name in sorted({*headers, *(each["remove"] for each in removals)})]
    return widened


@dataclass(frozen=True, slots=True)
class Rollout:
    """`steps` are what Envoy has to take, one after the other, before a request may name the wanted backends.

    `last` is what is left when no request names another any more; equal to the last step when none goes.
    """

    steps: tuple[Clusters, ...]
    last: Clusters


def rollout(present: Clusters, wanted: Clusters) -> Rollout:
    """From what Envoy has to what it shall have. Without steps when it has all of it already."""
    headers = stripped_by(present) | stripped_by(wanted)
    stripping = strip_also(present, headers)
    last = strip_also(wanted, headers)
    joint = {**stripping, **last}
    return Rollout(
        steps=tuple(
            after
            for before, after in ((present, stripping), (stripping, joint))
            if version_of(before) != version_of(after)
        ),
        last=last,
    )


def _filters(cluster: Cluster) -> list[dict[str, Any]]:
    filters: list[dict[str, Any]] = cluster["typed_extension_protocol_options"][_PROTOCOL_OPTIONS]["http_filters"]
    return filters


def _removals(cluster: Cluster) -> list[dict[str, str]]:
    """The mutations of the cluster's first filter, which all remove a header."""
    removals: list[dict[str, str]] = _filters(cluster)[0]["typed_config"]["mutations"]["request_mutations"]
    return removals

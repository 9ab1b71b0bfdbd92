"""The clusters in cds.yaml, and the order of steps in which Envoy gets other ones. Pure.

An admitted request names its clusters, and may fail over to them long after its admission. Clusters are therefore
never replaced in a single step:

1. Every cluster strips each header that will carry a credential, before any cluster adds that header. Envoy replaces
   clusters one by one, so fail-over may take a request from a new cluster to an old one, with the header still in it.
2. New and changed clusters are added next to those that will be removed. A request may name them once Envoy has
   applied them.
3. Clusters are removed once no request can name them any more.

The headers that a cluster strips only grow while it exists, because a request with an old header may still be in
flight.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

from ops.data_plane import cluster_json
from ops.data_plane.cluster_json import Clusters


def version_of(clusters: Clusters) -> str:
    """Returns the version of exactly these clusters. Envoy reports it as `cds.version_text` once it applied them."""
    ordered = [clusters[name] for name in sorted(clusters)]
    return hashlib.sha256(json.dumps(ordered, sort_keys=True).encode()).hexdigest()[:16]


def document(clusters: Clusters) -> bytes:
    """Returns the content of cds.yaml."""
    resources = [clusters[name] for name in sorted(clusters)]
    return json.dumps({"version_info": version_of(clusters), "resources": resources}, indent=1).encode()


def parse(content: bytes) -> Clusters:
    """Returns the clusters of a cds.yaml that `document` rendered. Raises ValueError for any other content."""
    try:
        return {resource["name"]: resource for resource in json.loads(content)["resources"]}
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of clusters") from error


def secret_names(clusters: Clusters) -> set[str]:
    """Returns the names of the secrets that the clusters request by SDS: credentials and authorities."""
    return set[str]().union(*map(cluster_json.secret_names, clusters.values()))


def stripped_headers(clusters: Clusters) -> set[str]:
    """Returns every header that at least one of the clusters removes from a request."""
    return set[str]().union(*map(cluster_json.stripped_headers, clusters.values()))


def with_stripped_headers(clusters: Clusters, headers: Collection[str]) -> Clusters:
    """Returns copies of the clusters that also remove `headers` from a request."""
    widened = copy.deepcopy(dict(clusters))
    for cluster in widened.values():
        cluster_json.set_stripped_headers(cluster, {*headers, *cluster_json.stripped_headers(cluster)})
    return widened


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Envoy must apply `steps` in order before a request may name the wanted backends.

    `final` are the clusters that remain when no request names any other one. It equals the last step if no cluster is
    removed.
    """

    steps: tuple[Clusters, ...]
    final: Clusters


def plan_rollout(present: Clusters, wanted: Clusters) -> RolloutPlan:
    """Plans the way from the clusters that Envoy has to the wanted ones. There are no steps if it has all of them."""
    headers = stripped_headers(present) | stripped_headers(wanted)
    stripping = with_stripped_headers(present, headers)
    final = with_stripped_headers(wanted, headers)
    joint = {**stripping, **final}
    return RolloutPlan(
        steps=tuple(
            after
            for before, after in ((present, stripping), (stripping, joint))
            if version_of(before) != version_of(after)
        ),
        final=final,
    )

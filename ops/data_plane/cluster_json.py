"""Access to the parts of a rendered cluster, as protobuf JSON, that decide how Envoy may replace it. Pure.

Clusters are compared and changed in this form and not as messages, because cds.yaml may be of an earlier version of the
gateway, and the version that Envoy reports covers the exact JSON. `clusters` renders every part that is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Cluster = dict[str, Any]
"""One cluster with its `@type`."""
Clusters = Mapping[str, Cluster]
"""Clusters by name."""

HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HEADER_MUTATION = "envoy.filters.http.header_mutation"
CREDENTIAL_INJECTOR = "envoy.filters.http.credential_injector"


def stripped_headers(cluster: Cluster) -> set[str]:
    """Returns the names of the headers that the cluster removes from a request, in lower case."""
    return {mutation["remove"] for mutation in _header_mutations(cluster)}


def set_stripped_headers(cluster: Cluster, names: Iterable[str]) -> None:
    """Replaces the headers that the cluster removes from a request."""
    _header_mutations(cluster)[:] = [{"remove": name} for name in sorted(set(names))]


def injected_header(cluster: Cluster) -> str | None:
    """Returns the name of the header with the backend's credential, None for a backend without one."""
    credential = _injected_credential(cluster)
    return None if credential is None else str(credential["header"])


def secret_names(cluster: Cluster) -> set[str]:
    """Returns the names of the secrets that the cluster requests by SDS: its credential and its authority."""
    credential = _injected_credential(cluster)
    references = [credential["credential"]] if credential is not None else []
    validation = _tls_context(cluster).get("combined_validation_context")
    if validation is not None:
        references.append(validation["validation_context_sds_secret_config"])
    return {reference["name"] for reference in references}


def _header_mutations(cluster: Cluster) -> list[dict[str, str]]:
    config = _filter_config(cluster, HEADER_MUTATION)
    if config is None:
        raise ValueError(f"the cluster {cluster['name']} has no filter {HEADER_MUTATION}")
    mutations: list[dict[str, str]] = config["mutations"]["request_mutations"]
    return mutations


def _injected_credential(cluster: Cluster) -> dict[str, Any] | None:
    config = _filter_config(cluster, CREDENTIAL_INJECTOR)
    return None if config is None else config["credential"]["typed_config"]


def _filter_config(cluster: Cluster, name: str) -> dict[str, Any] | None:
    filters = cluster["typed_extension_protocol_options"][HTTP_PROTOCOL_OPTIONS]["http_filters"]
    configs = (each["typed_config"] for each in filters if each["name"] == name)
    return next(configs, None)


def _tls_context(cluster: Cluster) -> dict[str, Any]:
    """Returns the TLS context of the cluster, empty for plain HTTP."""
    if "transport_socket" not in cluster:
        return {}
    context: dict[str, Any] = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    return context

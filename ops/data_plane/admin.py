"""A client of Envoy's admin interface: the clusters that Envoy has applied, and their health."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from gateway.errors import StoreUnavailable

# https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats
_STATS = r"^cluster_manager\.(cds\.(version_text|update_rejected|update_failure)|warming_clusters)$"
_TIMEOUT_S = 1.0
_POLL_S = 0.05


class ClustersNotApplied(Exception):
    """Envoy has not applied the clusters in time, or does not report its state."""


class ClustersRejected(ClustersNotApplied):
    """Envoy has read the clusters and rejects some of them."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The version that Envoy applied last, and the counts of warming clusters and of rejected updates.

    A warming cluster is not in use yet. A version that was never set is empty.
    """

    version: str
    warming: int
    rejections: int


class EnvoyAdmin:
    """The admin interface at `listen`, written as `HOST:PORT` or `unix:/path`."""

    def __init__(self, listen: str) -> None:
        self._unix = listen.removeprefix("unix:") if listen.startswith("unix:") else None
        self._origin = "http://envoy" if self._unix else f"http://{listen}"

    async def clusters(self) -> ClusterState | None:
        """Returns the current state, None when nothing listens there.

        Raises ClustersNotApplied when the response is late or is not Envoy's.
        """
        try:
            return parse_stats(await self._get("/stats", filter=_STATS))
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ClustersNotApplied("Envoy's admin interface does not respond") from error

    async def prometheus(self) -> str:
        """Returns Envoy's statistics that have a value, in Prometheus' text format. Raises StoreUnavailable."""
        try:
            return await self._get("/stats/prometheus", usedonly="")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise StoreUnavailable("Envoy's admin interface does not respond") from error

    async def unavailable_clusters(self) -> frozenset[str]:
        """Returns the names of the clusters of which every host fails its health checks or is ejected.

        There are none when nothing listens there. Raises StoreUnavailable when the response is late or is not Envoy's.
        """
        try:
            return unavailable_clusters(await self._get("/clusters", format="json"))
        except aiohttp.ClientConnectorError:
            return frozenset()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise StoreUnavailable("Envoy's admin interface does not respond") from error

    async def _get(self, path: str, **parameters: str) -> str:
        connector = aiohttp.UnixConnector(self._unix) if self._unix else aiohttp.TCPConnector()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_TIMEOUT_S)) as session,
            session.get(f"{self._origin}{path}", params=parameters) as response,
        ):
            return await response.text()

    async def wait_until_applied(self, version: str, rejections_before: int, timeout_s: float) -> None:
        """Returns when Envoy uses exactly the clusters of `version`.

        `rejections_before` is the count of rejected updates before this one. Raises ClustersRejected, and
        ClustersNotApplied after `timeout_s`, also when Envoy was unreachable all the time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        problem = "Envoy did not apply its clusters in time"
        while asyncio.get_running_loop().time() < deadline:
            try:
                state = await self.clusters()
            except ClustersNotApplied as error:
                state, problem = None, str(error)
            if state is not None:
                if state.version == version and not state.warming:
                    return
                if state.rejections > rejections_before:
                    raise ClustersRejected("Envoy rejects some of its clusters; its log has the reason")
            await asyncio.sleep(_POLL_S)
        raise ClustersNotApplied(problem)

    async def wait_until_healthy(self, names: Collection[str], timeout_s: float) -> None:
        """Returns when each of these clusters has a healthy host, or after `timeout_s`, since a backend may be down.

        Envoy applies a cluster before it has resolved the names of its hosts, because the tombstone needs no DNS.
        """
        with suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
            async with asyncio.timeout(timeout_s):
                missing = set(names)
                while missing:
                    missing -= healthy_clusters(await self._get("/clusters", format="json"))
                    await asyncio.sleep(_POLL_S if missing else 0)


def healthy_clusters(clusters: str) -> frozenset[str]:
    """Returns the names of the clusters with a healthy host, from the text of `/clusters?format=json`.

    The tombstone, which has a lower priority, does not count. Raises ValueError for any other text.
    """
    try:
        return frozenset(
            cluster["name"]
            for cluster in json.loads(clusters)["cluster_statuses"]
            for host in cluster.get("host_statuses", ())
            if not host.get("priority") and "failed_active_health_check" not in host["health_status"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of clusters") from error


def unavailable_clusters(clusters: str) -> frozenset[str]:
    """Returns the names of the clusters without a usable host, from the text of `/clusters?format=json`.

    The tombstone, which has a lower priority, does not count, and neither does a host before its first health check.
    Raises ValueError for any other text.
    """
    try:
        found = {
            cluster["name"]: [
                each["health_status"] for each in cluster.get("host_statuses", ()) if not each.get("priority")
            ]
            for cluster in json.loads(clusters)["cluster_statuses"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of clusters") from error
    return frozenset(name for name, hosts in found.items() if hosts and all(map(_is_unusable, hosts)))


def _is_unusable(health_status: Mapping[str, object]) -> bool:
    if "pending_active_hc" in health_status:
        return False
    return "failed_active_health_check" in health_status or "failed_outlier_check" in health_status


def parse_stats(stats: str) -> ClusterState:
    """Parses the text of `/stats`. Raises ValueError when a statistic is missing."""
    found = dict(re.findall(r"^cluster_manager\.(?:cds\.)?(\w+): (.*)$", stats, re.MULTILINE))
    try:
        return ClusterState(
            version=found.get("version_text", "").strip('"'),
            warming=int(found["warming_clusters"]),
            # Envoy counts an invalid cluster as a rejection, and an unreadable file as a failure.
            rejections=int(found["update_rejected"]) + int(found["update_failure"]),
        )
    except KeyError as error:
        raise ValueError(f"Envoy's statistics have no {error.args[0]}") from None

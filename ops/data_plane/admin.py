"""What Envoy says of itself on its admin interface: which clusters it has taken."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

# https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats
_STATS = r"^cluster_manager\.(cds\.(version_text|update_rejected|update_failure)|warming_clusters)$"
_TIMEOUT_S = 1.0
_POLL_S = 0.05


class NotTaken(Exception):
    """Envoy answers, and has not taken the clusters in time."""


class Rejected(NotTaken):
    """Envoy has read the clusters and refuses some of them."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The version that Envoy took last, how many clusters are not in use yet, and how many updates it refused."""

    version: str
    warming: int
    rejections: int


class EnvoyAdmin:
    """The admin interface at `listen`, `HOST:PORT` or `unix:/path`."""

    def __init__(self, listen: str) -> None:
        self._unix = listen.removeprefix("unix:") if listen.startswith("unix:") else None
        self._origin = "http://envoy" if self._unix else f"http://{listen}"

    async def clusters(self) -> ClusterState | None:
        """The state now; None when nobody listens there. Raises NotTaken when the answer is late or none of Envoy's."""
        try:
            return parse(await self._get("/stats", filter=_STATS))
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NotTaken("Envoy's admin interface gives no answer") from error

    async def _get(self, path: str, **parameters: str) -> str:
        connector = aiohttp.UnixConnector(self._unix) if self._unix else aiohttp.TCPConnector()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_TIMEOUT_S)) as session,
            session.get(f"{self._origin}{path}", params=parameters) as answer,
        ):
            return await answer.text()

    async def until_taken(self, version: str, rejections: int, patience_s: float) -> None:
        """Returns when Envoy uses exactly the clusters of `version`; `rejections` is how many it had refused before.

        Raises Rejected, and NotTaken after `patience_s`, also when it was not there all the while.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        problem = "Envoy did not take its clusters in time"
        while asyncio.get_running_loop().time() < deadline:
            try:
                state = await self.clusters()
            except NotTaken as error:
                state, problem = None, str(error)
            if state is not None:
                if state.version == version and not state.warming:
                    return
                if state.rejections > rejections:
                    raise Rejected("Envoy refuses some of its clusters; its log says why")
            await asyncio.sleep(_POLL_S)
        raise NotTaken(problem)

    async def until_healthy(self, names: Collection[str], patience_s: float) -> None:
        """Returns when each of these clusters has a host that answers, after `patience_s` in any case: one may be down.

        A cluster whose hosts have names is taken before these are looked up, because its tombstone needs no look-up.
        """
        with suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
            async with asyncio.timeout(patience_s):
                missing = set(names)
                while missing:
                    missing -= healthy(await self._get("/clusters", format="json"))
                    await asyncio.sleep(_POLL_S if missing else 0)


def healthy(clusters: str) -> frozenset[str]:
    """Names of the clusters that have a host which passes its checks, from `/clusters?format=json`. A tombstone, which
    has a lower priority, is none. Raises ValueError for anything else."""
    try:
        return frozenset(
            cluster["name"]
            for cluster in json.loads(clusters)["cluster_statuses"]
            for host in cluster.get("host_statuses", ())
            if not host.get("priority") and "failed_active_health_check" not in host["health_status"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError("not a list of clusters") from error


def parse(stats: str) -> ClusterState:
    """Reads the text of `/stats`. Raises ValueError when a figure is missing. A version that was never set is empty."""
    found = dict(re.findall(r"^cluster_manager\.(?:cds\.)?(\w+): (.*)$", stats, re.MULTILINE))
    try:
        return ClusterState(
            version=found.get("version_text", "").strip('"'),
            warming=int(found["warming_clusters"]),
            # A cluster that is wrong is a rejection, a file that cannot be read at all a failure.
            rejections=int(found["update_rejected"]) + int(found["update_failure"]),
        )
    except KeyError as error:
        raise ValueError(f"no {error.args[0]} among Envoy's figures") from None

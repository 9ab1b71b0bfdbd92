"""What Envoy says of itself on its admin interface: which clusters it has taken."""

from __future__ import annotations

import asyncio
import re
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
        connector = aiohttp.UnixConnector(self._unix) if self._unix else aiohttp.TCPConnector()
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_TIMEOUT_S)) as session,
                session.get(f"{self._origin}/stats", params={"filter": _STATS}) as answer,
            ):
                return parse(await answer.text())
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NotTaken("Envoy's admin interface gives no answer") from error

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

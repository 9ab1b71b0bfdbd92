"""The backends as this machine reaches them, and the catalog that control published of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from gateway.catalog.ollama_version import OLDEST_SUPPORTED, is_too_old
from gateway.catalog.snapshot import Catalog
from gateway.catalog.store import CatalogStore, Snapshot
from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.settings.backend import Backend
from gateway.stores.redis import connect
from ops.backends.findings import findings
from ops.backends.probe import ProbeError
from ops.control.merge import Observation
from ops.control.prober import Prober
from ops.doctor.check import Check, failed, ok, warning

_CATALOG = "catalog"


async def check(settings: Settings) -> list[Check]:
    """Every replica of every backend, asked with the very headers and TLS trust that the gateway uses."""
    async with aiohttp.ClientSession() as session:
        prober = Prober(session, settings.ollama_connect_timeout_s)
        answers = await asyncio.gather(*(_check_backend(prober, backend) for backend in settings.backends))
    return [check for answer in answers for check in answer]


async def _check_backend(prober: Prober, backend: Backend) -> list[Check]:
    name = f"backend {backend.name}"
    replicas = [backend.model_copy(update={"base_url": url, "replicas": ()}) for url in backend.urls]
    answers = await asyncio.gather(*(prober.observe(replica) for replica in replicas), return_exceptions=True)
    checks, seen = [], []
    for replica, answer in zip(replicas, answers, strict=True):
        if isinstance(answer, Observation):
            seen.append(answer)
            checks.append(_judge(name, replica, answer))
        elif isinstance(answer, ProbeError):
            checks.append(_unanswered(name, answer))
        else:
            raise answer
    if not _alike(seen):
        remedy = "pull the same models on all of them"
        checks.append(warning(name, "its replicas do not host the same models", remedy))
    return checks


def _judge(name: str, replica: Backend, seen: Observation) -> Check:
    token = ", token accepted" if replica.credential() else ""
    detail = f"{replica.base_url} runs Ollama {seen.version or 'of no version'}, {len(seen.tags)} models{token}"
    if is_too_old(seen.version):
        return warning(name, detail, f"upgrade it to {OLDEST_SUPPORTED} or newer")
    return ok(name, detail)


def _unanswered(name: str, error: ProbeError) -> Check:
    detail, _, remedy = str(error).partition("; ")
    return failed(name, detail, remedy or "see that server's log")


def _alike(replicas: Sequence[Observation]) -> bool:
    hosted = [{str(row.get("model")): row.get("digest") for row in seen.tags} for seen in replicas]
    return all(models == hosted[0] for models in hosted)


async def check_catalog(settings: Settings) -> list[Check]:
    """The snapshot is there and fresh, and says nothing that is to be mended."""
    redis = connect(settings)
    try:
        snapshot = await CatalogStore(redis, settings.redis_timeout_s).fetch(unless_version="")
    except StoreUnavailable as error:
        return [failed(_CATALOG, f"it cannot be read: {error}", "remedy Redis first")]
    finally:
        await redis.aclose()
    if snapshot is None or snapshot.catalog is None or not snapshot.catalog.backends:
        remedy = "start control, and remedy the backends: it publishes once one of them answers"
        return [failed(_CATALOG, "control has published nothing that is known, so every request gets 503", remedy)]
    return judge_catalog(settings, snapshot, snapshot.catalog)


def judge_catalog(settings: Settings, snapshot: Snapshot, catalog: Catalog) -> list[Check]:
    """What a snapshot says about control and the backends."""
    age_s = max(0.0, settings.model_discovery_cache_ttl_s - snapshot.ttl_s)
    detail = f"{age_s:.0f} s old; models: {len(catalog.models)}, backends: {len(catalog.backends)}"
    checks = [
        ok(_CATALOG, detail)
        if age_s < 2 * settings.model_discovery_refresh_s
        else warning(_CATALOG, detail, "start control: nobody refreshes the catalog")
    ]
    states = {state.name: state for state in catalog.backends}
    for backend in settings.backends:
        if backend.name not in states:
            remedy = "remedy the backend; if it is well, see what control's log says of the backends"
            checks.append(warning(_CATALOG, f"control does not know what {backend.name} hosts", remedy))
        elif not states[backend.name].answers:
            remedy = "remedy the backend; if it is well from here, see what control's log says"
            checks.append(warning(_CATALOG, f"{backend.name} does not answer control", remedy))
    # Versions were looked at on every replica already.
    differing = (finding for finding in findings(catalog) if finding.kind == "digests_differ")
    return [*checks, *(warning(_CATALOG, finding.text, finding.remedy) for finding in differing)]

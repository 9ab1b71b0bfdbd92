"""Checks the backends from this machine, and the catalog that control published of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from gateway.catalog.ollama_version import OLDEST_SUPPORTED, is_too_old
from gateway.catalog.snapshot import Catalog, HostedModel
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
_SET_CONTEXT = "set num_ctx in its Modelfile; see docs/context.md"


async def check(settings: Settings) -> list[Check]:
    """Probes every replica of every backend with the headers and the TLS trust that Envoy uses."""
    async with aiohttp.ClientSession() as session:
        prober = Prober(session, settings.ollama_connect_timeout_s)
        by_backend = await asyncio.gather(*(_check_backend(prober, backend) for backend in settings.backends))
    return [check for checks in by_backend for check in checks]


async def _check_backend(prober: Prober, backend: Backend) -> list[Check]:
    name = f"backend {backend.name}"
    replicas = [backend.model_copy(update={"base_url": url, "replicas": ()}) for url in backend.urls]
    results = await asyncio.gather(*(prober.observe(replica) for replica in replicas), return_exceptions=True)
    checks, observations = [], []
    for replica, result in zip(replicas, results, strict=True):
        if isinstance(result, Observation):
            observations.append(result)
            checks.append(_check_replica(name, replica, result))
        elif isinstance(result, ProbeError):
            checks.append(failed(name, result.problem, result.remedy or "see that server's log"))
        else:
            raise result
    if not _host_the_same_models(observations):
        checks.append(warning(name, "its replicas do not host the same models", "pull the same models on all replicas"))
    return checks


def _check_replica(name: str, replica: Backend, observation: Observation) -> Check:
    ollama = f"Ollama {observation.version}" if observation.version else "an Ollama of unknown version"
    token = ", token accepted" if replica.credential() else ""
    detail = f"{replica.base_url} runs {ollama}, {len(observation.tags)} models{token}"
    if is_too_old(observation.version):
        return warning(name, detail, f"upgrade it to {OLDEST_SUPPORTED} or newer")
    return ok(name, detail)


def _host_the_same_models(observations: Sequence[Observation]) -> bool:
    hosted = [{str(row.get("model")): row.get("digest") for row in each.tags} for each in observations]
    return all(models == hosted[0] for models in hosted)


async def check_catalog(settings: Settings) -> list[Check]:
    """Checks that a catalog is published, that it is fresh, and that it shows no problem."""
    redis = connect(settings)
    try:
        snapshot = await CatalogStore(redis, settings.redis_timeout_s).fetch(unless_version="")
    except StoreUnavailable as error:
        return [failed(_CATALOG, f"it cannot be read: {error}", "fix Redis first")]
    finally:
        await redis.aclose()
    if snapshot is None or snapshot.catalog is None or not snapshot.catalog.backends:
        remedy = "start control, or fix the backends: control publishes once one of them answers"
        return [failed(_CATALOG, "no catalog published; every request gets 503", remedy)]
    return assess_catalog(settings, snapshot, snapshot.catalog)


def assess_catalog(settings: Settings, snapshot: Snapshot, catalog: Catalog) -> list[Check]:
    """Checks the age of a published catalog, the backends in it, and the digests and contexts of their models."""
    age_s = max(0.0, settings.model_discovery_cache_ttl_s - snapshot.ttl_s)
    detail = f"{age_s:.0f} s old; models: {len(catalog.models)}, backends: {len(catalog.backends)}"
    checks = [
        ok(_CATALOG, detail)
        if age_s < 2 * settings.model_discovery_refresh_s
        else warning(_CATALOG, f"{detail}; it is not being refreshed", "start control")
    ]
    states = {state.name: state for state in catalog.backends}
    for backend in settings.backends:
        if backend.name not in states:
            remedy = "fix the backend; if it answers doctor, see control's log"
            checks.append(warning(_CATALOG, f"control does not know what {backend.name} hosts", remedy))
        elif not states[backend.name].answers:
            remedy = "fix the backend; if it answers doctor, see control's log"
            checks.append(warning(_CATALOG, f"{backend.name} does not answer control", remedy))
    # `check` reports old versions, for each replica.
    differing = (finding for finding in findings(catalog) if finding.kind == "digests_differ")
    checks += (warning(_CATALOG, finding.text, finding.remedy) for finding in differing)
    return [*checks, *(_check_context(settings, model) for model in catalog.models.values())]


def _check_context(settings: Settings, model: HostedModel) -> Check:
    """The context in force of a model. One that is unknown matters only if long prompts are to be refused."""
    name = f"model {model.spelling}"
    if model.context_tokens is not None:
        return ok(name, f"context of {model.context_tokens} tokens ({model.context_source})")
    detail = "context unknown until a backend has it in memory"
    if settings.context_overflow == "truncate":
        return ok(name, detail)
    return warning(name, f"{detail}; until then CONTEXT_OVERFLOW=refuse refuses nothing on /v1", _SET_CONTEXT)

"""Checks the workers of authz and meter, each at the address that Envoy uses."""

from __future__ import annotations

import asyncio
import json

from gateway.settings import Settings
from ops.doctor.check import ANSWER_TIMEOUT_S, Check, failed, ok, warning
from ops.host import probes


async def check(settings: Settings) -> list[Check]:
    """Connects to every target. Some unavailable targets of a service are a warning, all of them are a failure."""
    services = (
        ("authz", settings.authz_grpc_targets),
        ("authz http", settings.authz_http_targets),
        ("meter", settings.meter_grpc_targets),
    )
    checks = [await _check_targets(name, targets) for name, targets in services]
    if checks[1].status != "failed":
        checks.append(await _check_readiness(settings.authz_http_targets))
    return checks


async def _check_targets(name: str, targets: list[str]) -> Check:
    accepted = await asyncio.gather(*(_accepts_connections(target) for target in targets))
    unavailable = [target for target, accepts in zip(targets, accepted, strict=True) if not accepts]
    if not unavailable:
        return ok(name, f"{len(targets)} of {len(targets)} workers accept connections")
    detail = f"no worker accepts connections at {', '.join(unavailable)}"
    service = name.split()[0]
    remedy = f"start it there with `neuronetz-gateway run {service}`, or correct {service.upper()}_*_TARGETS"
    return (failed if len(unavailable) == len(targets) else warning)(name, detail, remedy)


async def _check_readiness(targets: list[str]) -> Check:
    answers = await asyncio.gather(*(_missing_dependencies(target) for target in targets))
    if missing := sorted({name for answer in answers for name in answer or ()}):
        names = ", ".join(missing)
        return failed("readiness", f"authz reports missing dependencies: {names}", f"fix {names} first")
    unresponsive = [target for target, answer in zip(targets, answers, strict=True) if answer is None]
    if not unresponsive:
        return ok("readiness", "every authz reaches its dependencies")
    report = failed if len(unresponsive) == len(targets) else warning
    return report("readiness", f"authz does not answer at {', '.join(unresponsive)}", "see its log, and restart it")


async def _missing_dependencies(target: str) -> list[str] | None:
    """The dependencies that a worker reports as missing; None when it does not answer."""
    origin, unix = probes.split_listen(target)
    status, text = await probes.get(f"{origin}/readyz", unix=unix, timeout_s=ANSWER_TIMEOUT_S)
    if status == 200:
        return []
    return [str(name) for name in json.loads(text)] if status == 503 else None


async def _accepts_connections(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            if target.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(target.removeprefix("unix:"))
            else:
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True

"""The workers of authz and meter, each at the address where Envoy looks for it."""

from __future__ import annotations

import asyncio
import json

from gateway.settings import Settings
from ops.doctor.check import ANSWER_TIMEOUT_S, Check, failed, ok, warning
from ops.host import probes


async def check(settings: Settings) -> list[Check]:
    """Connects to every target; one of two workers that is away is a warning."""
    kinds = (
        ("authz", settings.authz_grpc_targets),
        ("authz http", settings.authz_http_targets),
        ("meter", settings.meter_grpc_targets),
    )
    checks = [await _check_targets(name, targets) for name, targets in kinds]
    if checks[1].status != "failed":
        checks.append(await _check_readiness(settings.authz_http_targets))
    return checks


async def _check_targets(name: str, targets: list[str]) -> Check:
    answers = await asyncio.gather(*(_accepts(target) for target in targets))
    away = [target for target, answer in zip(targets, answers, strict=True) if not answer]
    if not away:
        return ok(name, f"{len(targets)} of {len(targets)} workers take connections")
    detail = f"nobody takes connections at {', '.join(away)}"
    remedy = f"neuronetz-gateway run {name.split()[0]} there, or correct {name.split()[0].upper()}_*_TARGETS"
    return (failed if len(away) == len(targets) else warning)(name, detail, remedy)


async def _check_readiness(targets: list[str]) -> Check:
    answers = await asyncio.gather(*(_readyz(target) for target in targets))
    if missing := sorted({name for answer in answers for name in answer or ()}):
        names = ", ".join(missing)
        return failed("readiness", f"authz says that something is missing: {names}", f"remedy {names} first")
    hung = [target for target, answer in zip(targets, answers, strict=True) if answer is None]
    if not hung:
        return ok("readiness", "every authz reaches all it needs")
    bad = failed if len(hung) == len(targets) else warning
    return bad("readiness", f"authz does not answer at {', '.join(hung)}", "see its log, and start it again")


async def _readyz(target: str) -> list[str] | None:
    """What a worker says is missing; None when it says nothing."""
    origin, unix = probes.split_listen(target)
    status, text = await probes.get(f"{origin}/readyz", unix=unix, timeout_s=ANSWER_TIMEOUT_S)
    if status == 200:
        return []
    return [str(name) for name in json.loads(text)] if status == 503 else None


async def _accepts(target: str) -> bool:
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

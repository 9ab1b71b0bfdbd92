"""Writes clusters and credentials for Envoy, in the order of ops/data_plane/cds.py, and waits until it uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.errors import SettingsError
from gateway.settings import Settings
from ops.data_plane import cds, envoy_files
from ops.data_plane.admin import ClustersNotApplied, ClustersRejected, EnvoyAdmin
from ops.data_plane.backend_secrets import authority_name
from ops.data_plane.cluster_json import Clusters
from ops.data_plane.validation import validate_clusters
from ops.host.atomic_write import write_atomically

TAKEN_WITHIN_S = 10.0
# How long Envoy waits for the DNS lookup and the first health check of a new backend, before it is published anyway.
HEALTHY_WITHIN_S = 1.0
# Without an answer on the admin interface, Envoy either does not run, and reads all files when it starts, or cannot be
# queried: then it notices a renamed file at once and needs a moment to connect.
UNSEEN_GRACE_S = 1.0


class Rollout:
    """The files in one directory. Only one call of `advance` or `retire` may run at a time."""

    def __init__(self, directory: Path, admin: EnvoyAdmin, envoy_program: Path | None) -> None:
        self._directory = directory
        self._admin = admin
        self._envoy_program = envoy_program
        self._present: Clusters = {}

    async def start(self, settings: Settings) -> None:
        """Writes the files that do not depend on the backends, then calls `advance`. A running Envoy keeps running."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._put(envoy_files.render_static(settings, self._directory))
        if await self._admin.clusters() is None:
            envoy_files.write(settings, self._directory)
        try:
            self._present = cds.parse((self._directory / envoy_files.CLUSTERS_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            self._present = {}
        await self.advance(settings)

    async def advance(self, settings: Settings) -> None:
        """Adds the backends of `settings` to those that Envoy has. Returns when a request may name them.

        Raises SettingsError for invalid backends, and ClustersNotApplied when Envoy does not confirm them. In both
        cases Envoy keeps, or returns to, the previous backends.
        """
        authorities = envoy_files.render_authorities(settings)
        plan = cds.plan_rollout(self._present, envoy_files.clusters_of(settings, self._directory))
        if plan.steps:
            await validate_clusters(settings, self._envoy_program)
        secrets = {**envoy_files.render_secrets(settings), **envoy_files.render_sds(settings, self._directory)}
        files = {**authorities, **secrets}
        in_use = cds.secret_names(self._present)
        self._put({name: content for name, content in files.items() if Path(name).stem not in in_use})
        try:
            for step in plan.steps:
                await self._apply(step)
        except (ClustersNotApplied, OSError) as error:
            self._put({envoy_files.CLUSTERS_FILE: cds.document(self._present)})
            envoy_files.delete_secrets(self._directory, keep=in_use)
            if isinstance(error, ClustersRejected):
                raise SettingsError(f"OLLAMA_BACKENDS: {error}") from None
            raise
        # Tokens and authorities of clusters that exist already, with the same address. They come last, so that a
        # rejection leaves them unchanged.
        self._put(files)
        self._present = plan.steps[-1] if plan.steps else self._present

    def renewed(self, settings: Settings) -> frozenset[str]:
        """Names of the backends whose `ca_file` differs from the content that Envoy has. Raises SettingsError."""
        authorities = envoy_files.render_authorities(settings)
        files = {backend.name: f"{authority_name(backend)}.yaml" for backend in settings.backends}
        return frozenset(
            name for name, file in files.items() if file in authorities and not self._has(file, authorities[file])
        )

    async def retire(self, settings: Settings) -> None:
        """Removes what the backends of `settings` do not need. Call it when no request can name that any more.

        Raises ClustersNotApplied when Envoy does not apply it; then it may be called again.
        """
        plan = cds.plan_rollout(self._present, envoy_files.clusters_of(settings, self._directory))
        if cds.version_of(plan.final) != cds.version_of(self._present):
            await self._apply(plan.final)
            self._present = plan.final
        # Only after Envoy has stopped using them, or it would report that they cannot be read.
        envoy_files.delete_secrets(self._directory, keep=cds.secret_names(plan.final))

    async def _apply(self, clusters: Clusters) -> None:
        before = await self._admin.clusters()
        self._put({envoy_files.CLUSTERS_FILE: cds.document(clusters)})
        if before is None:
            await asyncio.sleep(UNSEEN_GRACE_S)
        else:
            await self._admin.wait_until_applied(cds.version_of(clusters), before.rejections, TAKEN_WITHIN_S)
            await self._admin.wait_until_healthy(clusters.keys() - self._present.keys(), HEALTHY_WITHIN_S)

    def _put(self, files: dict[str, bytes]) -> None:
        """Writes the files whose content is new, each by a rename."""
        for name, content in files.items():
            if not self._has(name, content):
                write_atomically(self._directory / name, content)

    def _has(self, name: str, content: bytes) -> bool:
        path = self._directory / name
        return path.exists() and path.read_bytes() == content

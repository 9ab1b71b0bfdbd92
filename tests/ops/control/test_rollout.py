"""Changes of the backends of a real Envoy, which runs without any backend process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.errors import SettingsError
from gateway.settings import Settings
from ops.control.rollout import Rollout
from ops.data_plane import envoy_files
from ops.data_plane.admin import ClustersNotApplied, ClusterState, EnvoyAdmin, healthy_clusters, parse_stats
from ops.data_plane.validation import find_envoy
from ops.host import binaries
from tests.e2e.stack import simulator
from tests.polling import eventually_async
from tests.ports import free_port

TOKEN = "s3cret-token"
A = {"name": "a", "base_url": "http://127.0.0.1:1", "auth_token": TOKEN}
B = {"name": "b", "base_url": "http://127.0.0.1:2"}
TOO_LONG_FOR_ENVOY = {"ollama_connect_timeout_s": 1e10}
"""A valid protobuf duration with more nanoseconds than 64 bits hold, which Envoy rejects. The settings would, too."""


class Running:
    """An Envoy, its directory, and the state that its admin interface reports."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.directory = directory
        self.pid = pid
        self.admin = EnvoyAdmin(f"unix:{directory}/admin.sock")
        self.rollout = Rollout(directory, self.admin, find_envoy())

    def settings(self, *backends: dict[str, Any], **others: Any) -> Settings:
        return settings(self.directory, *backends, **others)

    async def dump(self) -> str:
        connector = aiohttp.UnixConnector(f"{self.directory}/admin.sock")
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://envoy/config_dump?include_eds") as answer,
        ):
            return await answer.text()

    async def clusters(self) -> set[str]:
        dump = json.loads(await self.dump())
        (found,) = (each for each in dump["configs"] if each["@type"].endswith("ClustersConfigDump"))
        return {each["cluster"]["name"] for each in found.get("dynamic_active_clusters", ())}

    async def healthy(self) -> frozenset[str]:
        connector = aiohttp.UnixConnector(f"{self.directory}/admin.sock")
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://envoy/clusters?format=json") as answer,
        ):
            return healthy_clusters(await answer.text())

    def tokens(self) -> list[str]:
        return [path.read_text() for path in self.directory.glob("credential-*.token")]


def settings(directory: Path, *backends: dict[str, Any], **others: Any) -> Settings:
    return Settings.model_validate(
        {
            "ollama_backends": backends,
            "envoy_config_dir": directory,
            "envoy_admin_listen": f"unix:{directory}/admin.sock",
            "gateway_bind_host": "127.0.0.1",
            **others,
        }
    )


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """One Envoy for all tests: its directory and its process id."""
    directory = tmp_path_factory.mktemp("envoy")
    envoy_files.write(settings(directory, A, gateway_bind_port=free_port()), directory)
    command = [str(binaries.envoy()), "--config-path", str(directory / "bootstrap.yaml"), "--concurrency", "1"]
    with subprocess.Popen([*command, "--disable-hot-restart", "--log-level", "off"]) as started:
        try:
            yield directory, started.pid
        finally:
            started.kill()


@pytest.fixture
async def envoy(process: tuple[Path, int]) -> Running:
    """Has the backend `a` and nothing else."""
    running = Running(*process)
    await eventually_async(running.admin.clusters, 30)
    await running.rollout.start(running.settings(A))
    await running.rollout.retire(running.settings(A))
    assert await running.clusters() == {"backend:a"}
    return running


async def test_envoy_uses_what_is_added_and_loses_what_goes_only_when_it_is_retired(envoy: Running) -> None:
    await envoy.rollout.advance(envoy.settings(A, B))
    assert await envoy.clusters() == {"backend:a", "backend:b"}
    await envoy.rollout.advance(envoy.settings(B))
    assert await envoy.clusters() == {"backend:a", "backend:b"}
    assert envoy.tokens() == [f"Bearer {TOKEN}"]
    await envoy.rollout.retire(envoy.settings(B))
    assert await envoy.clusters() == {"backend:b"}
    assert envoy.tokens() == []


async def test_a_backend_on_localhost_answers_by_the_time_it_may_be_named(envoy: Running) -> None:
    with simulator() as ollama:
        port = ollama.url.rpartition(":")[2]
        await envoy.rollout.advance(envoy.settings(A, {"name": "named", "base_url": f"http://localhost:{port}"}))
        assert "backend:named" in await envoy.healthy()
    await envoy.rollout.advance(envoy.settings(A))
    await envoy.rollout.retire(envoy.settings(A))


async def test_a_new_order_or_token_leaves_the_clusters_as_they_are(envoy: Running) -> None:
    await envoy.rollout.advance(envoy.settings(A, B))
    before = (envoy.directory / "cds.yaml").stat()
    await envoy.rollout.advance(envoy.settings(B, {**A, "auth_token": "another"}))
    await envoy.rollout.retire(envoy.settings(B, {**A, "auth_token": "another"}))
    assert (envoy.directory / "cds.yaml").stat() == before
    assert envoy.tokens() == ["Bearer another"]


async def test_the_admin_interface_shows_no_token(envoy: Running) -> None:
    assert TOKEN not in await envoy.dump()
    assert "credential-a-" in await envoy.dump()


@pytest.mark.parametrize("program", [find_envoy(), None], ids=["validated", "rejected by the running Envoy"])
async def test_a_rejected_change_leaves_the_previous_backends_in_force(envoy: Running, program: Path | None) -> None:
    envoy.rollout = Rollout(envoy.directory, envoy.admin, program)
    await envoy.rollout.start(envoy.settings(A))
    changed = {**A, "auth_token": "another"}
    with pytest.raises(SettingsError, match=r"^OLLAMA_BACKENDS: Envoy rejects"):
        await envoy.rollout.advance(envoy.settings(changed, B).model_copy(update=TOO_LONG_FOR_ENVOY))
    assert envoy.tokens() == [f"Bearer {TOKEN}"]
    assert await envoy.clusters() == {"backend:a"}
    await envoy.rollout.advance(envoy.settings(changed, B))
    assert await envoy.clusters() == {"backend:a", "backend:b"}


async def test_an_authority_that_cannot_be_read_is_refused_by_name(envoy: Running, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for file in ("nowhere.pem", "empty.pem"):
        backend = {"name": "c", "base_url": "https://127.0.0.1:3", "ca_file": str(tmp_path / file)}
        with pytest.raises(SettingsError, match=f"the ca_file .*{file} of c cannot be used"):
            await envoy.rollout.advance(envoy.settings(A, backend))
    assert await envoy.clusters() == {"backend:a"}


async def test_a_control_that_starts_again_goes_on_in_order(envoy: Running) -> None:
    """What it finds in the directory is what Envoy has, also of a backend that has gone meanwhile."""
    again = Rollout(envoy.directory, envoy.admin, find_envoy())
    await again.start(envoy.settings(B))
    assert await envoy.clusters() == {"backend:a", "backend:b"}
    await again.retire(envoy.settings(B))
    assert await envoy.clusters() == {"backend:b"}


async def test_an_envoy_that_hangs_gets_nothing_new(envoy: Running) -> None:
    os.kill(envoy.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ClustersNotApplied):
            await envoy.rollout.advance(envoy.settings(A, B))
    finally:
        os.kill(envoy.pid, signal.SIGCONT)
    assert await envoy.clusters() == {"backend:a"}
    await envoy.rollout.advance(envoy.settings(A, B))
    assert await envoy.clusters() == {"backend:a", "backend:b"}


async def test_without_an_envoy_the_files_are_written_for_its_start(tmp_path: Path) -> None:
    directory = tmp_path / "envoy"
    rollout = Rollout(directory, EnvoyAdmin(f"unix:{tmp_path}/absent.sock"), find_envoy())
    await rollout.start(settings(directory, A))
    await rollout.advance(settings(directory, B))
    await rollout.retire(settings(directory, B))
    assert {path.name for path in directory.iterdir()} == {
        "bootstrap.yaml",
        "listener.yaml",
        "hold_response.wasm",
        "cds.yaml",
    }


def test_envoys_figures_are_read() -> None:
    text = "cluster_manager.cds.update_failure: 1\ncluster_manager.cds.update_rejected: 2\n"
    text += 'cluster_manager.cds.version_text: "v1"\n'
    assert parse_stats(text + "cluster_manager.warming_clusters: 4\n") == ClusterState("v1", 4, 3)
    with pytest.raises(ValueError, match="warming_clusters"):
        parse_stats(text)

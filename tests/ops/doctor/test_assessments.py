from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.catalog.store import Snapshot
from gateway.settings import Settings
from ops.doctor import configuration
from ops.doctor.backends import assess_catalog
from ops.doctor.check import Check
from ops.doctor.data_plane import assess_clusters
from ops.doctor.redis import assess

SETTINGS = Settings.model_validate(
    {
        "ollama_backends": [{"name": "near", "base_url": "http://a"}, {"name": "far", "base_url": "http://b"}],
        "model_discovery_refresh_s": 10,
        "model_discovery_cache_ttl_s": 60,
    }
)
GOOD_REDIS = {"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "aof_enabled": 1}


def statuses(checks: list[Check]) -> list[tuple[str, str]]:
    assert all(bool(check.remedy) == (check.status != "ok") for check in checks), (
        "every check that is not ok has a remedy"
    )
    return [(check.name, check.status) for check in checks]


@pytest.mark.parametrize(
    ("info", "status"),
    [
        ({}, "ok"),
        ({"redis_version": "6.2.14"}, "ok"),
        ({"redis_version": "6.0.16"}, "failed"),
        ({"maxmemory_policy": "allkeys-lru"}, "failed"),
        ({"aof_enabled": 0}, "warning"),
    ],
)
def test_redis_must_be_new_enough_never_evict_and_persist(info: dict[str, Any], status: str) -> None:
    assert statuses(assess("redis", {**GOOD_REDIS, **info})) == [("redis", status)]


def cluster(name: str, *hosts: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "host_statuses": [{"health_status": health} for health in hosts]}


HEALTHY, UNHEALTHY = (
    {"eds_health_status": "HEALTHY"},
    {"eds_health_status": "HEALTHY", "failed_active_health_check": True},
)
TOMBSTONE = {"priority": 1, "health_status": HEALTHY}


def test_a_tombstone_does_not_count_as_a_host_of_a_cluster() -> None:
    near = cluster("backend:near", HEALTHY, UNHEALTHY)
    near["host_statuses"].append(TOMBSTONE)
    far = cluster("backend:far", UNHEALTHY)
    far["host_statuses"].append(TOMBSTONE)
    document = {
        "cluster_statuses": [
            cluster("authz", HEALTHY, UNHEALTHY),
            cluster("meter", UNHEALTHY),
            near,
            far,
            cluster("catalog"),
        ]
    }
    assert statuses(assess_clusters(SETTINGS, document)) == [
        ("cluster authz", "warning"),
        ("cluster meter", "failed"),
        ("cluster catalog", "ok"),
        ("cluster near", "warning"),
        ("cluster far", "warning"),
    ]
    assert {check.status for check in assess_clusters(SETTINGS, {})} == {"failed"}


def test_a_stale_catalog_and_missing_silent_and_differing_backends_are_warnings() -> None:
    states = (BackendState("near", 1, "0.20.0", answers=False),)
    model = HostedModel("m:latest", ("near", "old"), {}, digests={"near": "a", "old": "b"})
    checks = assess_catalog(SETTINGS, Snapshot("", 35.0, None), Catalog(states, {"m:latest": model}))
    assert statuses(checks) == [("catalog", "warning")] * 4 + [("model m:latest", "ok")]
    age, silent, unknown, differs, _ = (check.detail for check in checks)
    assert "25 s old" in age
    assert silent == "near does not answer control"
    assert unknown == "control does not know what far hosts"
    assert "m:latest has different weights" in differs
    both = (BackendState("near", 1, "0.20.0"), BackendState("far", 1, "0.20.0"))
    assert statuses(assess_catalog(SETTINGS, Snapshot("", 55.0, None), Catalog(both, {}))) == [("catalog", "ok")]


def test_each_model_has_a_line_with_its_context_and_where_it_comes_from() -> None:
    both = (BackendState("near", 1, "0.20.0"), BackendState("far", 1, "0.20.0"))
    parameters = {"parameters": "num_ctx                        16384"}
    models = [
        HostedModel("loaded:latest", ("near", "far"), {}, shown=parameters, contexts={"near": 8192, "far": 4096}),
        HostedModel("set:latest", ("near",), {"name": "Set:latest"}, shown=parameters),
        HostedModel("plain:latest", ("near",), {}),
    ]
    catalog = Catalog(both, {model.name: model for model in models})
    _, *checks = assess_catalog(SETTINGS, Snapshot("", 55.0, None), catalog)
    assert [(check.name, check.status, check.detail) for check in checks] == [
        ("model loaded:latest", "ok", "context of 4096 tokens (memory)"),
        ("model Set:latest", "ok", "context of 16384 tokens (Modelfile)"),
        ("model plain:latest", "ok", "context unknown until a backend has it in memory"),
    ]
    refusing = SETTINGS.model_copy(update={"context_overflow": "refuse"})
    checks = assess_catalog(refusing, Snapshot("", 55.0, None), catalog)
    assert statuses(checks)[1:] == [
        ("model loaded:latest", "ok"), ("model Set:latest", "ok"), ("model plain:latest", "warning"),
    ]  # fmt: skip


def test_an_env_file_that_others_can_read_and_a_misspelled_name_are_warnings(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("DEFALT_RPM=5\nPOSTGRES_PASSWORD=x\nDEFAULT_TPM=7\n")
    path.chmod(0o600)
    assert statuses(configuration.check(path)) == [
        ("settings", "ok"),
        ("settings", "warning"),
        ("env file", "ok"),
    ]
    path.chmod(0o640)
    path.write_text("DEFAULT_RPM=5\n")
    assert statuses(configuration.check(path)) == [("settings", "ok"), ("env file", "warning")]
    assert statuses(configuration.check(None)) == [("settings", "ok")]

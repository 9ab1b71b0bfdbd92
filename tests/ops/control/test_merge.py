from __future__ import annotations

from typing import Any

from gateway.catalog import Catalog
from gateway.settings import Backend
from ops.control.merge import Observation, merge


def seen(name: str, *models: str | dict[str, Any], running: tuple[str, ...] = ()) -> Observation:
    rows = tuple({"model": m, "digest": f"{name}-{m}"} if isinstance(m, str) else m for m in models)
    backend = Backend(name=name, base_url=f"http://{name}:11434", replicas=(f"http://{name}-2:11434",))
    return Observation(backend, "0.17.1", rows, tuple({"name": m, "size": 1} for m in running))


def test_a_model_goes_to_the_backends_that_host_it_in_configuration_order() -> None:
    catalog = merge([seen("near", "a:latest", "b:latest"), seen("far", "c:latest", "a:latest")])
    assert {name: model.backends for name, model in catalog.models.items()} == {
        "a:latest": ("near", "far"),
        "b:latest": ("near",),
        "c:latest": ("far",),
    }
    assert catalog.models["a:latest"].tag["digest"] == "near-a:latest"
    assert catalog.replicas_of("near") == 2


def test_names_are_canonical_and_what_runs_elsewhere_is_left_out() -> None:
    catalog = merge(
        [
            seen(
                "near",
                "LLAMA3.2:Latest",
                "gpt-oss:20b-cloud",
                {"model": "stub:latest", "remote_host": "https://elsewhere.example"},
                {"model": "not a name"},
                {"size": 5},
                running=("Llama3.2:latest", "gpt-oss:20b-cloud"),
            )
        ]
    )
    assert list(catalog.models) == ["llama3.2:latest"]
    assert [row["name"] for row in catalog.running] == ["llama3.2:latest"]


STUB = {"model": "stub:latest", "remote_host": "https://elsewhere.example"}


def test_what_runs_elsewhere_is_marked_when_it_is_let_in() -> None:
    catalog = merge([seen("near", "a:latest", STUB, "gpt-oss:20b-cloud")], allow_cloud=True)
    assert {name: model.remote for name, model in catalog.models.items()} == {
        "a:latest": False,
        "stub:latest": True,
        "gpt-oss:20b-cloud": True,
    }
    assert "elsewhere" not in catalog.to_json()


def test_a_request_for_a_model_that_some_backend_runs_itself_never_leaves_the_house() -> None:
    catalog = merge([seen("near", STUB), seen("far", "stub:latest")], allow_cloud=True)
    assert (catalog.models["stub:latest"].backends, catalog.models["stub:latest"].remote) == (("far",), False)


def test_a_catalog_is_read_back_as_it_was_published() -> None:
    catalog = merge([seen("near", "a:latest", STUB, running=("a:latest",)), seen("far", "b:latest")], allow_cloud=True)
    assert Catalog.from_json(catalog.to_json()) == catalog

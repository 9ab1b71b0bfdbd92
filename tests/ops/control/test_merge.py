from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.catalog.snapshot import Catalog, HostedModel
from gateway.settings.backend import Backend
from ops.backends.findings import findings
from ops.control.merge import Observation, first_hosts, merge


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
    read = Catalog.from_json(catalog.to_json())
    assert read.addresses_of(["far", "near"]) == ("near:11434", "near-2:11434", "far:11434", "far-2:11434")


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
    assert [row["name"] for row in catalog.running] == ["Llama3.2:latest"]


def test_a_model_is_listed_in_the_spelling_of_its_first_backend() -> None:
    names = ("PetrosStav/gemma3-tools:4b", "hf.co/U/M:Q4_K_M", "registry.ollama.ai/library/a:latest", "B")
    catalog = merge([seen("near", *names), seen("far", "petrosstav/gemma3-tools:4B")])
    assert {name: model.spelling for name, model in catalog.models.items()} == {
        "petrosstav/gemma3-tools:4b": "PetrosStav/gemma3-tools:4b",
        "hf.co/u/m:q4_k_m": "hf.co/U/M:Q4_K_M",
        "a:latest": "a:latest",
        "b:latest": "b:latest",
    }
    read = Catalog.from_json(catalog.to_json())
    assert read.models["petrosstav/gemma3-tools:4b"].tag["model"] == "PetrosStav/gemma3-tools:4b"


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


def test_what_a_model_weighs_and_where_it_is_loaded_is_kept_for_each_backend() -> None:
    catalog = merge([seen("near", "a:latest"), seen("far", "a:latest", "b:latest", running=("A", "b:latest"))])
    assert catalog.models["a:latest"].digests == {"near": "near-a:latest", "far": "far-a:latest"}
    assert catalog.models["a:latest"].loaded == ("far",)
    assert catalog.models["b:latest"].loaded == ("far",)


def test_what_a_silent_backend_had_in_memory_is_not_known() -> None:
    silent = replace(seen("near", "a:latest", running=("a:latest",)), answers=False)
    catalog = merge([silent, seen("far", "a:latest", running=("a:latest",))])
    assert catalog.models["a:latest"].backends == ("near", "far")
    assert catalog.models["a:latest"].loaded == ("far",)
    assert [state.answers for state in catalog.backends] == [False, True]
    assert len(catalog.running) == 1


def test_a_model_that_runs_on_two_backends_runs_twice_and_shows_nothing_of_its_host() -> None:
    row = {"name": "a:latest", "size_vram": 7, "host": "10.0.0.5"}
    observations = [replace(seen(name, "a:latest"), running=(row,)) for name in ("near", "far")]
    assert merge(observations).running == ({"name": "a:latest", "model": "a:latest", "size_vram": 7},) * 2


def test_a_model_is_described_by_the_digest_it_has_on_its_first_backend() -> None:
    descriptions = {"near-a:latest": {"model_info": {"x": 1}}, "far-a:latest": {"model_info": {"x": 2}}}
    catalog = merge([seen("near", "a:latest", "b:latest"), seen("far", "a:latest")], descriptions)
    assert catalog.models["a:latest"].shown == {"model_info": {"x": 1}}
    assert catalog.models["b:latest"].shown == {}


def test_a_description_comes_from_the_first_backend_that_answers() -> None:
    silent, same = replace(seen("near", "a:latest"), answers=False), {"model": "b:latest", "digest": "d"}
    hosts = first_hosts([silent, seen("mid", same), seen("far", {**same, "model": "c:latest"}, {"model": "d:latest"})])
    assert [(digest, backend.name, name) for digest, (backend, name) in hosts.items()] == [("d", "mid", "b:latest")]


def test_one_name_for_different_weights_is_found_and_one_for_the_same_is_not() -> None:
    row = {"model": "same:latest", "digest": "abc"}
    found = findings(merge([seen("near", row, "a:latest", "b:latest"), seen("far", row, "a:latest")]))
    assert [(finding.kind, finding.subject) for finding in found] == [("digests_differ", "a:latest")]
    assert "near near-a:lates, far far-a:latest" in found[0].text


def test_a_backend_that_is_too_old_is_found_and_one_that_says_no_version_is_not() -> None:
    versions = {"a": "0.17.0", "b": "0.17.1", "c": None, "d": "0.9.6-rc1", "e": "0.17.1-rc0", "f": "1.0"}
    found = findings(merge([replace(seen(name), version=version) for name, version in versions.items()]))
    assert [(finding.kind, finding.subject) for finding in found] == [
        ("version_too_old", "a"),
        ("version_too_old", "d"),
    ]


def test_a_backend_built_from_source_is_not_too_old() -> None:
    """W24 of the comparison with the real Ollama."""
    assert findings(merge([replace(seen("a"), version="0.0.0")])) == ()


def test_a_catalog_is_read_back_as_it_was_published() -> None:
    descriptions = {"near-a:latest": {"model_info": {"x": 1}}}
    seen_near = seen("near", "a:latest", STUB, running=("a:latest",))
    catalog = merge([seen_near, seen("far", "b:latest")], descriptions, allow_cloud=True)
    assert Catalog.from_json(catalog.to_json()) == catalog


def test_the_context_in_force_is_the_smallest_in_memory_else_that_of_the_modelfile() -> None:
    """W27 of the comparison with the real Ollama."""

    def context(*lengths: object, parameters: str = "num_ctx 8192") -> int | None:
        observations = [
            replace(
                seen(f"b{place}", {"model": "a", "digest": "d"}), running=({"name": "a", "context_length": length},)
            )
            for place, length in enumerate(lengths)
        ] or [seen("b", {"model": "a", "digest": "d"})]
        catalog = merge(observations, {"d": {"parameters": parameters}})
        return Catalog.from_json(catalog.to_json()).models["a:latest"].context_tokens

    assert context(4096, 2048) == 2048
    assert context() == 8192
    assert context(0, "x", True, None) == 8192
    assert context(parameters="stop x") is None


def test_the_source_of_the_context_is_known() -> None:
    memory, modelfile, unknown = (
        HostedModel("a:latest", ("b",), {}, contexts=contexts, shown=shown)
        for contexts, shown in (({"b": 4096}, {}), ({}, {"parameters": "num_ctx 8192"}), ({}, {}))
    )
    assert [model.context_source for model in (memory, modelfile, unknown)] == ["memory", "Modelfile", "unknown"]

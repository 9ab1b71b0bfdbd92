from __future__ import annotations

from pathlib import Path

from ops.compose.sbom import document, pins

LOCK = (Path(__file__).parents[3] / "requirements-image.lock").read_text()


def test_every_pin_is_a_component_with_its_version_and_hashes() -> None:
    components = document(LOCK)["components"]
    assert len(components) == LOCK.count("==") - LOCK.count("'==") - LOCK.count(" == ") > 30
    grpcio = next(each for each in components if each["name"] == "grpcio")
    assert grpcio["purl"] == f"pkg:pypi/grpcio@{grpcio['version']}"
    assert {each["value"] for each in grpcio["properties"]} == set(
        next(pin[2] for pin in pins(LOCK) if pin[0] == "grpcio")
    )
    assert sum(len(each["properties"]) for each in components) == LOCK.count("--hash=sha256:")


def test_licences_are_those_of_the_installed_distributions() -> None:
    licences = {each["name"]: each.get("licenses") for each in document(LOCK)["components"]}
    assert licences["redis"]
    assert licences["grpcio"]


def test_the_same_lock_file_gives_the_same_document() -> None:
    assert document(LOCK) == document(LOCK)

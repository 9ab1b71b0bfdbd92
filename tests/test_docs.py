"""The pages of docs/ agree with the tables of the code, and with each other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.errors import STATUS, Code
from gateway.settings import Settings
from gateway.wire.surfaces import SURFACES, Surface
from ops.cli import PANELS
from tests.surface_table import render_table
from tests.yaml_text import load_yaml
from tools.reference import PAGES as GENERATED
from tools.reference import SettingsGroup, read_env_example

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OVERVIEWS = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
PAGE_LINES_MAX = 200
REFERENCES = {*GENERATED}
"""Pages that list everything of a kind, and may be longer."""
COMMANDS = [name for commands in PANELS.values() for name in commands]

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_SETTING = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
# Variables of other programs, of make and of the tests, and a misspelt name that a page shows.
FOREIGN_NAMES = {
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL",
    "BENCH_AGAINST", "BENCH_AGAINST_SETTINGS", "BENCH_ARGS", "BENCH_PEERS", "CADDY_SITES", "CADDY_TLS", "COMPOSE_FILE",
    "CURL_CA_BUNDLE", "DEFAULT_RMP", "GATEWAY_API_KEY", "GATEWAY_ENV_FILE", "GATEWAY_VIRTUAL_HOST", "LETSENCRYPT_EMAIL",
    "LETSENCRYPT_HOST", "NODE_EXTRA_CA_CERTS", "NO_COLOR", "OLLAMA_API_KEY", "OLLAMA_AUTH", "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_HOST", "OLLAMA_KEEP_ALIVE", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE", "OLLAMA_NUM_PARALLEL",
    "OPENAI_API_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "PROMTOOL", "PYTEST_ARGS",
    "PYTEST_WORKERS", "FAIRNESS_ARGS", "SOAK_SECONDS", "SSL_CERT_FILE", "VIRTUAL_HOST",
}  # fmt: skip
_ERROR_ROW = re.compile(r"^\| (\d{3}) \| `(\w+)` \| .+ \|$", re.MULTILINE)


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_error_table_is_that_of_the_code() -> None:
    documented = [(code, int(status)) for status, code in _ERROR_ROW.findall(read("api.md"))]
    assert sorted(documented) == sorted((str(code), STATUS[code]) for code in Code)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_every_surface_is_in_the_api_page_with_dialect_scope_and_cap(surface: Surface) -> None:
    cap = f"`{'.'.join(surface.cap_field)}`" if surface.cap_field else "none"
    row = f"| `{surface.path}` | {surface.dialect} | `{surface.scope}` | {cap} |"
    assert any(line.startswith(row) for line in read("api.md").splitlines()), row


def test_the_table_of_surfaces_matches_the_reader_and_the_rewriter() -> None:
    """`python -m tests.surface_table` prints the expected rows."""
    rows = [line for line in read("surfaces.md").splitlines() if line.startswith("|")]
    assert rows == render_table().splitlines()


def test_every_command_is_in_the_table_of_commands() -> None:
    first_cells = "".join(line.split("|")[1] for line in read("commands.md").splitlines() if line.startswith("| `"))
    assert [command for command in COMMANDS if f"`{command}`" not in first_cells] == []


@pytest.mark.parametrize("page", [*PAGES, *OVERVIEWS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_or_folder(page: Path) -> None:
    targets = [urlsplit(target) for target in _LINK.findall(page.read_text(encoding="utf-8"))]
    relative = [target.path for target in targets if not target.scheme and not target.netloc and target.path]
    assert [path for path in relative if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in REFERENCES], ids=lambda page: page.name)
def test_a_page_is_short_enough_to_be_read_at_once(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= PAGE_LINES_MAX


def pages_of(navigation: list[Any]) -> Iterator[str]:
    """The pages of a navigation of mkdocs, which may nest groups of pages."""
    for entry in navigation:
        for target in entry.values():
            if isinstance(target, list):
                yield from pages_of(target)
            else:
                yield target


def test_every_page_is_in_the_navigation() -> None:
    configuration = load_yaml((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(pages_of(configuration["nav"]))
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_the_site_needs_nothing_of_other_servers() -> None:
    configuration = load_yaml((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert configuration["theme"]["font"] is False
    assert "offline" in configuration["plugins"]
    assets = [*configuration["extra_css"], *configuration["extra_javascript"], *configuration["extra"]["polyfills"]]
    assets += [configuration["theme"]["logo"], configuration["theme"]["favicon"]]
    assert [asset for asset in assets if not (DOCS / asset).is_file()] == []
    # The plugin adds a script of another server unless there is an entry of this name.
    assert any("iframe-worker" in script for script in configuration["extra"]["polyfills"])


@pytest.mark.parametrize(("page", "generate"), GENERATED.items(), ids=GENERATED)
def test_a_generated_page_is_up_to_date(page: str, generate: Callable[[], str]) -> None:
    """`python -m tools.reference` writes the expected pages."""
    assert read(page) == generate()


def test_the_sections_of_an_env_file_are_groups_of_settings_with_their_comment() -> None:
    text = "# Not in a section.\n\n# -- One -----\n# A port\n# and a host.\nPORT=1\nHOST=\n# -- Two --\nNAME=x\n"
    assert read_env_example(text) == {
        "One": [SettingsGroup("A port and a host.", {"PORT": "1", "HOST": ""})],
        "Two": [SettingsGroup("", {"NAME": "x"})],
    }


def anchors(page: Path) -> set[str]:
    """The anchors that mkdocs gives to the headings of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in _HEADING.findall(text):
        plain = unicodedata.normalize("NFKD", heading.replace("`", "")).encode("ascii", "ignore").decode()
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        found.add(slug)
    return found


@pytest.mark.parametrize("page", [*PAGES, *OVERVIEWS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_is_a_heading_of_its_page(page: Path) -> None:
    missing = []
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        url = urlsplit(target)
        linked = page.parent / url.path if url.path else page
        if url.fragment and not url.scheme and linked.suffix == ".md" and url.fragment not in anchors(linked):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize(
    "page", [page for page in [*PAGES, *OVERVIEWS] if page.name != "terms.md"], ids=lambda page: page.name
)
def test_every_setting_exists(page: Path) -> None:
    """terms.md has names of the code, not of settings."""
    sections = read_env_example((ROOT / ".env.example").read_text(encoding="utf-8")).values()
    known = {name for groups in sections for group in groups for name in group.defaults}
    known |= {name.upper() for name in Settings.model_fields} | FOREIGN_NAMES
    spans = _CODE_SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    named = {match[1] for span in spans if (match := re.match(rf"({_SETTING.pattern})(?:=|$)", span))}
    assert named - known == set()


@pytest.mark.parametrize(("page", "least"), [("security.md", 20), ("real-ollama.md", 32), ("client-reports.md", 50)])
def test_every_test_that_a_page_names_exists(page: str, least: int) -> None:
    named = _TEST_NAME.findall(read(page))
    assert len(named) > least
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_every_difference_from_the_real_ollama_has_a_test() -> None:
    rows = [line for line in read("real-ollama.md").splitlines() if line.startswith("| W")]
    assert [row.split("|")[1].strip() for row in rows] == [f"W{number}" for number in range(1, 33)]
    assert [row for row in rows if not _TEST_NAME.search(row)] == []


def test_each_report_of_a_caller_has_a_test() -> None:
    rows = [
        line for line in read("client-reports.md").splitlines() if line.startswith("| ") and "| right |" not in line
    ]
    assert len(rows) > 50
    assert [row for row in rows if len(_TEST_NAME.findall(row)) != 1] == []

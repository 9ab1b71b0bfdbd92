import base64
import hashlib
import html
import inspect
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from pydantic import SecretStr

from authz.admit import Admitter
from authz.catalog import playground
from authz.catalog.pages import CatalogPages
from authz.catalog.playground.table import load_table
from authz.catalog.view import CatalogView
from authz.check import CheckPipeline
from authz.denials import DenialLog
from authz.keys.authenticate import Authenticator
from authz.keys.change_listener import ChangeListener
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import generate
from authz.keys.last_used import LastUsed
from authz.keys.repository import KeyRepository
from authz.keys.throttle import FailureThrottle
from authz.keys.verified_cache import VerifiedKeyCache
from authz.request import read_request
from gateway.catalog.store import CatalogStore
from gateway.errors import Code
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Limits
from gateway.wire.surfaces import BY_PATH, SURFACES, AnswerShape
from tests.gateway.quota.model.quota import MemoryQuota

PAGE = playground.assemble_page(None).decode()
SOURCES = Path(playground.__file__).parent
TABLE = load_table()
ENDPOINTS = {each["id"]: each for each in TABLE["endpoints"]}
Client = TestClient[Request, Application]
Serve = Callable[[bool], Awaitable[Client]]


class Elements(HTMLParser):
    """Every element with its attributes, and the text of each script and style, as a browser's parser splits them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {}
        self._kind = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._kind = f"{tag} {dict(attrs).get('type', '')}".strip()
            self.inline.setdefault(self._kind, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self._kind = ""

    def handle_data(self, data: str) -> None:
        if self._kind:
            self.inline[self._kind][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.found if found == tag]


ELEMENTS = Elements(PAGE)
(SCRIPT,) = ELEMENTS.inline["script module"]


def policy() -> dict[str, str]:
    directives = (part.partition(" ") for part in playground.HEADERS["Content-Security-Policy"].split("; "))
    return {name: value for name, _, value in directives}


def script_object(module: str, name: str) -> str:
    """The source of the constant `name` of a module."""
    source = (SOURCES / "js" / f"{module}.js").read_text()
    found = re.search(rf"^(?:export )?const {name} = (.*?)^[}}\]];", source, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts the real pages, switched on or off. The stores are nowhere: neither answer may need them."""
    async with AsyncExitStack() as stack:

        async def start(enabled: bool) -> Client:
            settings = Settings(
                playground_enabled=enabled,
                database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"),
                redis_url=SecretStr("redis://127.0.0.1:1/0"),
            )
            database, redis = Database(settings), connect(settings)
            stack.push_async_callback(database.close)
            stack.push_async_callback(redis.aclose)
            hasher = KeyHasher.from_settings(settings)
            stack.callback(hasher.close)
            quota = MemoryQuota(
                now_ms=lambda: int(time.time() * 1000),
                lease_s=15.0,
                backlog_max=100,
                load=Ledger(database).usage_of,
                restore_s=0,
            )
            stack.push_async_callback(quota.aclose)
            key_repository, verified = KeyRepository(database, Limits(60, 100_000, 8)), VerifiedKeyCache()
            change_listener = ChangeListener(
                database, on_revoked=verified.evict, on_policy_changed=verified.outdate, on_gap=lambda _: None
            )
            gate = CheckPipeline(
                Authenticator(
                    key_repository,
                    hasher,
                    change_listener,
                    verified,
                    trust_s=60.0,
                    identity_window_s=60.0,
                    now=lambda: datetime.now(UTC),
                ),
                FailureThrottle(redis, 20, timeout_s=5.0),
                LastUsed(key_repository),
                CatalogView(CatalogStore(redis, settings.redis_timeout_s)),
                Admitter(quota),
                DenialLog(Outbox(quota, settlements_max=100, denials_max=100)),
                prefer_loaded=False,
            )

            async def nothing_missing() -> list[str]:
                return []

            pages = CatalogPages(gate, settings, nothing_missing, cast("Any", None)).application()
            return await stack.enter_async_context(TestClient(TestServer(pages)))

        yield start


@pytest.mark.parametrize(("kind", "directive"), [("script module", "script-src"), ("style", "style-src")])
def test_the_policy_allows_exactly_the_inline_code_of_the_page(kind: str, directive: str) -> None:
    (inline,) = ELEMENTS.inline[kind]
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert len(inline) > 100
    assert policy()[directive] == f"'sha256-{digest}'"


def test_the_page_has_one_script_one_style_and_one_block_of_data() -> None:
    assert {kind: len(texts) for kind, texts in ELEMENTS.inline.items()} == {
        "style": 1,
        "script application/json": 1,
        "script module": 1,
    }
    assert json.loads(ELEMENTS.inline["script application/json"][0]) == TABLE


def test_every_module_is_in_the_page_after_those_that_it_imports() -> None:
    assert sorted(playground.MODULES) == sorted(path.stem for path in (SOURCES / "js").glob("*.js"))
    for position, name in enumerate(playground.MODULES):
        imported = re.findall(r'from "\./(\w+)\.js";', (SOURCES / "js" / f"{name}.js").read_text())
        assert set(imported) <= set(playground.MODULES[:position]), name
    assert not re.search(r"^(import|export)\b", SCRIPT, re.MULTILINE)


def test_the_page_has_line_ends_that_a_browser_does_not_rewrite_before_it_hashes() -> None:
    assert "\r" not in PAGE


def test_the_page_may_talk_to_its_own_origin_and_nowhere_else() -> None:
    assert policy() == {
        "default-src": "'none'",
        "script-src": policy()["script-src"],
        "style-src": policy()["style-src"],
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    transport = (SOURCES / "js" / "transport.js").read_text()
    assert re.findall(r"fetch\((.*),", transport) == ["location.origin + path"]
    assert "XMLHttpRequest" not in SCRIPT


def test_the_page_is_one_file_without_resources_from_elsewhere() -> None:
    addresses = [
        value
        for tag, attrs in ELEMENTS.found
        for name, value in attrs.items()
        if name in {"src", "href", "action"} and tag != "a"
    ]
    assert addresses == ["data:,"]
    code = SCRIPT + ELEMENTS.inline["style"][0]
    for elsewhere in ("http://", "https://", "ws://", "wss://", "'//", '"//', "@import", "import("):
        assert elsewhere not in code
    assert "url(" not in ELEMENTS.inline["style"][0]


def test_a_link_to_another_site_carries_no_address_of_this_one() -> None:
    links = [attrs for attrs in ELEMENTS.of("a") if not str(attrs.get("href", "")).startswith("#")]
    assert links
    assert {(attrs["rel"], attrs["target"]) for attrs in links} == {("noopener noreferrer", "_blank")}
    assert {urlsplit(each["reference"]).scheme for each in ENDPOINTS.values() if "reference" in each} == {"https"}


def test_the_policy_has_nothing_inline_to_refuse() -> None:
    names = {name for _, attrs in ELEMENTS.found for name in attrs}
    assert not {name for name in names if name.startswith("on") or name == "style"}


def test_nothing_a_model_says_can_become_markup_or_code() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("):
        assert way not in PAGE


def test_the_key_is_kept_in_memory_only() -> None:
    (key,) = [attrs for attrs in ELEMENTS.of("input") if attrs.get("id") == "key"]
    assert key["type"] == "password"
    assert key["autocomplete"] == "off"
    assert "name" not in key
    assert ELEMENTS.of("form") == []
    for place in ("localStorage", "indexedDB", "cookie", "history.", "caches", "postMessage"):
        assert place not in SCRIPT
    # The theme is all that is stored, for the session.
    theme = (SOURCES / "js" / "theme.js").read_text()
    assert SCRIPT.count("sessionStorage") == theme.count("sessionStorage") == 2
    assert SCRIPT.count('$("key").value') == 2


def test_nothing_can_be_run_before_the_script_has_seen_a_key() -> None:
    buttons = {attrs["id"]: attrs for attrs in ELEMENTS.of("button")}
    assert all("disabled" in buttons[name] for name in ("run", "refresh", "stop"))


def test_every_control_has_a_label() -> None:
    labelled = {attrs["for"] for attrs in ELEMENTS.of("label")}
    ids = {attrs.get("id") for _, attrs in ELEMENTS.found}
    controls = [attrs for tag, attrs in ELEMENTS.found if tag in {"input", "select", "textarea"}]
    assert [
        attrs for attrs in controls if attrs["id"] not in labelled and attrs.get("aria-labelledby") not in ids
    ] == []


async def test_the_page_offers_every_endpoint_of_the_gateway(serve: Serve) -> None:
    client = await serve(True)
    routes = client.app.router.routes() if client.app else []
    pages = {
        f"{route.method} {route.resource.canonical.replace('{name}', '{id}')}"
        for route in routes
        if route.resource and route.method != "HEAD"
    }
    surfaces = {f"POST {surface.path}" for surface in SURFACES}
    # Envoy itself answers GET /, and this page is no endpoint.
    assert ENDPOINTS.keys() == (pages | surfaces | {"GET /"}) - {"GET /playground"}


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS.keys())
def test_an_endpoint_has_the_texts_of_its_card_and_a_sample_that_the_gateway_reads(endpoint: dict[str, Any]) -> None:
    assert all(endpoint[name].strip() for name in ("about", "note", "response"))
    assert (endpoint["request"] is None) == (endpoint["method"] == "GET")
    surface = BY_PATH.get(endpoint["path"])
    if surface is not None:
        assert endpoint["scope"] == surface.scope
        assert read_request(surface, endpoint["request"].encode(), "").model
    elif endpoint["request"] is not None:
        assert json.loads(endpoint["request"])["model"]


def test_the_page_reads_every_shape_of_answer() -> None:
    readers = re.findall(r"^  (\w+):", script_object("readers", "READERS"), re.MULTILINE)
    assert sorted(readers) == sorted(AnswerShape)


def test_the_page_gives_advice_for_codes_that_the_gateway_has() -> None:
    advised = re.findall(r"^  (\w+):", script_object("failures", "ADVICE"), re.MULTILINE)
    assert advised
    assert set(advised) <= set(Code)


@pytest.mark.parametrize("call", TABLE["arguments"])
def test_the_official_clients_have_the_calls_and_arguments_of_the_code(call: str) -> None:
    """The names that the code tabs write, against the signatures of the installed clients."""
    import anthropic
    import ollama
    import openai

    clients = {
        "openai": openai.OpenAI(api_key="k", base_url="http://127.0.0.1:1"),
        "anthropic": anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:1"),
        "ollama": ollama.Client(host="http://127.0.0.1:1"),
    }
    names = {name for each in ENDPOINTS.values() for name, used in each.get("clients", {}).items() if used == call}
    assert names
    for name in names:
        method: Any = clients[name]
        for part in call.split("."):
            method = getattr(method, part)
        assert set(TABLE["arguments"][call]) <= set(inspect.signature(method).parameters)


async def test_the_page_comes_with_its_headers_and_without_a_key(serve: Serve) -> None:
    client = await serve(True)
    async with client.get("/playground") as answer:
        assert answer.status == 200
        assert await answer.read() == PAGE.encode()
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert {name: answer.headers.getall(name) for name in playground.HEADERS} == {
            name: [value] for name, value in playground.HEADERS.items()
        }
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Frame-Options"] == "DENY"


async def test_the_page_does_not_exist_where_it_is_not_switched_on(serve: Serve) -> None:
    client = await serve(False)
    async with client.get("/playground") as answer, client.get("/no-such-page") as other:
        assert (answer.status, other.status) == (404, 404)
        assert answer.headers["X-Gateway-Error"] == "not_found"
        body = await answer.read()
        assert body == await other.read()
        assert json.loads(body) == {"error": "not found"}


async def test_a_request_of_the_page_is_denied_without_the_stores_that_check_the_key(serve: Serve) -> None:
    client = await serve(True)
    async with client.get("/api/tags", headers={"x-api-key": generate().secret.get_secret_value()}) as answer:
        assert answer.status == 503


def test_the_playground_is_off_by_default() -> None:
    assert Settings.model_fields["playground_enabled"].default is False


def test_the_page_links_to_the_documentation_where_its_address_is_set() -> None:
    url = 'https://docs.example.org/"><script>alert(1)</script>&x'
    linked = playground.assemble_page(url).decode()
    (element,) = re.findall(r'<a class="ghost" id="docs"[^>]*>', linked)
    assert f'href="{html.escape(url)}"' in element
    assert "<script>alert" not in linked
    assert 'id="docs"' not in PAGE
    assert len(re.findall(re.escape(SCRIPT), linked)) == 1

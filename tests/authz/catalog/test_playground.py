import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from pydantic import SecretStr

from authz.admit import Admitter
from authz.catalog import playground
from authz.catalog.pages import CatalogPages
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
from gateway.catalog.store import CatalogStore
from gateway.errors import Code
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Limits
from gateway.wire.surfaces import BY_PATH
from tests.gateway.quota.model.quota import MemoryQuota

PAGE = playground.PAGE.decode()
Client = TestClient[Request, Application]
Serve = Callable[[bool], Awaitable[Client]]


class Elements(HTMLParser):
    """Every element with its attributes, and the text of the scripts and styles, as a browser's parser splits them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self._tag = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._tag = tag
        if tag in self.inline:
            self.inline[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._tag:
            self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag in self.inline:
            self.inline[self._tag][-1] += data


def policy() -> dict[str, str]:
    directives = (part.partition(" ") for part in playground.HEADERS["Content-Security-Policy"].split("; "))
    return {name: value for name, _, value in directives}


def script_object(name: str) -> str:
    """The source of the script's constant `name`."""
    found = re.search(rf"^const {name} = (.*?)^[}}\]];", PAGE, re.DOTALL | re.MULTILINE)
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
                    key_repository, hasher, change_listener, verified, trust_s=60.0, now=lambda: datetime.now(UTC)
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


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_allows_exactly_the_inline_code_of_the_page(tag: str) -> None:
    (inline,) = Elements(PAGE).inline[tag]
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert len(inline) > 100
    assert policy()[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_page_has_line_ends_that_a_browser_does_not_rewrite_before_it_hashes() -> None:
    assert b"\r" not in playground.PAGE


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


def test_the_page_is_one_file_without_resources_from_elsewhere() -> None:
    addresses = [
        value for _, attrs in Elements(PAGE).found for name, value in attrs.items() if name in {"src", "href", "action"}
    ]
    assert addresses == ["data:,"]
    for elsewhere in ("http://", "https://", "ws://", "wss://", "'//", '"//', "@import"):
        assert elsewhere not in PAGE
    (style,) = Elements(PAGE).inline["style"]
    assert "url(" not in style


def test_the_policy_has_nothing_inline_to_refuse() -> None:
    names = {name for _, attrs in Elements(PAGE).found for name in attrs}
    assert not {name for name in names if name.startswith("on") or name == "style"}


def test_nothing_a_model_says_can_become_markup_or_code() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("):
        assert way not in PAGE


def test_the_key_is_kept_in_memory_only() -> None:
    (key,) = [attrs for tag, attrs in Elements(PAGE).found if tag == "input" and attrs.get("id") == "key"]
    assert key["type"] == "password"
    assert key["autocomplete"] == "off"
    assert "name" not in key
    assert "form" not in {tag for tag, _ in Elements(PAGE).found}
    for place in ("localStorage", "sessionStorage", "indexedDB", "cookie", "history.", "location.hash"):
        assert place not in PAGE


def test_nothing_can_be_run_before_the_script_has_seen_a_key() -> None:
    buttons = {attrs["id"]: attrs for tag, attrs in Elements(PAGE).found if tag == "button"}
    assert {"run", "list", "stop", "copy"} == buttons.keys()
    assert all("disabled" in attrs for attrs in buttons.values())


def test_every_control_has_a_label() -> None:
    elements = Elements(PAGE).found
    labelled = {attrs.get("for") for tag, attrs in elements if tag == "label"}
    assert {attrs["id"] for tag, attrs in elements if tag in {"input", "select", "textarea"}} == labelled


def test_the_page_offers_endpoints_that_the_gateway_has() -> None:
    elements = Elements(PAGE).found
    offered = [attrs["value"] for tag, attrs in elements if tag == "option"]
    assert offered == ["/api/chat", "/v1/chat/completions", "/v1/messages"]
    assert offered == re.findall(r'^  "(/.*)": \{$', script_object("ENDPOINTS"), re.MULTILINE)
    assert set(offered) <= BY_PATH.keys()


def test_the_page_gives_advice_for_codes_that_the_gateway_has() -> None:
    advised = re.findall(r"^  (\w+):", script_object("ADVICE"), re.MULTILINE)
    assert advised
    assert set(advised) <= set(Code)


async def test_the_page_comes_with_its_headers_and_without_a_key(serve: Serve) -> None:
    client = await serve(True)
    async with client.get("/playground") as answer:
        assert answer.status == 200
        assert await answer.read() == playground.PAGE
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

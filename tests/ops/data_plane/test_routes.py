"""The hand-written routes of envoy/listener.yaml against the surface table and the catalog's own routes."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, cast

import pytest

from authz.catalog.pages import CatalogPages
from gateway.settings import Settings
from gateway.wire.surfaces import SURFACES
from gateway.wire.timeouts import CHECK_TIMEOUT_S
from ops.data_plane.envoy_files import render
from tests.yaml_text import load_yaml

SETTINGS = Settings.model_validate({"ollama_backends": [{"name": "near", "base_url": "http://127.0.0.1:11434"}]})
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
# How aiohttp and Envoy's regular expressions write the name of a model, which may have slashes.
NAME_OF_A_MODEL, ANYTHING, SLASH = "/{name}", "(/.+)?", "/?"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The HTTP connection manager of the rendered listener."""
    text = render(SETTINGS, tmp_path_factory.mktemp("envoy"))["listener.yaml"]
    found: dict[str, Any] = load_yaml(text)["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


@pytest.fixture(scope="module")
def routes(manager: dict[str, Any]) -> list[dict[str, Any]]:
    """All routes but that of preflights, which depends on the headers of a browser."""
    found: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return [route for route in found if "envoy.filters.http.cors" not in route.get("typed_per_filter_config", {})]


@cache
def catalog() -> dict[str, set[str]]:
    """Path -> methods that authz answers over HTTP."""
    pages = CatalogPages(cast("Any", None), SETTINGS, cast("Any", None), cast("Any", None))
    found: dict[str, set[str]] = {}
    for route in pages.application().router.routes():
        assert route.resource is not None
        found.setdefault(route.resource.canonical, set()).add(route.method)
    return found


def served() -> dict[str, set[str]]:
    """Path -> methods that one of the services answers."""
    return {**{surface.path: {"POST"} for surface in SURFACES}, **catalog()}


def methods_of(route: dict[str, Any]) -> set[str]:
    """The methods that a route matches; a route without a condition matches all of them."""
    for condition in route["match"].get("headers", []):
        assert condition["name"] == ":method"
        matcher = condition["string_match"]
        pattern = matcher["safe_regex"]["regex"] if "safe_regex" in matcher else re.escape(matcher["exact"])
        return {method for method in METHODS if re.fullmatch(pattern, method)}
    return set(METHODS)


def target_of(route: dict[str, Any]) -> str:
    """A status, the name of a cluster, or `backends`."""
    if "direct_response" in route:
        return str(route["direct_response"]["status"])
    return cast("str", route["route"].get("cluster", "backends"))


def resolve(routes: list[dict[str, Any]], method: str, path: str) -> str:
    """Where Envoy sends a request: the first route that matches wins."""
    for route in routes:
        match = route["match"]
        is_path = (
            path == match["path"]
            if "path" in match
            else path.startswith(match["prefix"])
            if "prefix" in match
            else re.fullmatch(match["safe_regex"]["regex"], path)
        )
        if is_path and method in methods_of(route):
            return target_of(route)
    raise AssertionError(f"no route for {method} {path}")


def paths_with(routes: list[dict[str, Any]], target: str) -> dict[str, set[str]]:
    """Path -> methods of the routes with this target. A regular expression of alternatives is written out."""
    found: dict[str, set[str]] = {}
    for route in routes:
        if target_of(route) != target:
            continue
        match = route["match"]
        if "path" in match:
            paths = [match["path"]]
        elif match.get("safe_regex", {}).get("regex", "").endswith(SLASH) and "(" not in match["safe_regex"]["regex"]:
            paths = [match["safe_regex"]["regex"].removesuffix(SLASH)]
        elif "prefix" in match:
            paths = [match["prefix"].removesuffix("/") + NAME_OF_A_MODEL]
        else:
            paths = alternatives(match["safe_regex"]["regex"])
        for path in paths:
            found.setdefault(path, set()).update(methods_of(route))
    return found


def alternatives(regex: str) -> list[str]:
    """The paths that a regular expression such as `/api/(tags|ps)` or `/v1/(models(/.+)?)` matches."""
    shape = re.fullmatch(r"(/|/[a-z0-9]+/)\((.+)\)(/\?)?", regex)
    assert shape, f"not a list of alternatives: {regex}"
    paths = []
    for alternative in shape[2].split("|"):
        path = shape[1] + alternative.removesuffix(ANYTHING)
        assert re.fullmatch(r"[/a-z0-9_]+", path), f"not a plain path: {alternative}"
        paths += [path, path + NAME_OF_A_MODEL] if alternative.endswith(ANYTHING) else [path]
    return paths


def test_the_routes_to_backends_are_exactly_the_surfaces(routes: list[dict[str, Any]]) -> None:
    assert paths_with(routes, "backends") == {surface.path: {"POST"} for surface in SURFACES}


def test_the_routes_to_the_catalog_are_exactly_the_pages_that_it_serves(routes: list[dict[str, Any]]) -> None:
    assert paths_with(routes, "catalog") == catalog()


def test_the_paths_that_answer_405_are_exactly_those_that_are_served(routes: list[dict[str, Any]]) -> None:
    assert set(paths_with(routes, "405")) == set(served())


@pytest.mark.parametrize("path", served())
def test_every_method_of_a_served_path_reaches_its_service_or_is_answered_with_405(
    routes: list[dict[str, Any]], path: str
) -> None:
    for name in ["llama3.2:latest", "hf.co/user/model:q4", "hf.co%2Fuser%2Fmodel"]:
        resolved = {method: resolve(routes, method, path.replace("{name}", name)) for method in METHODS}
        service = "catalog" if path in catalog() else "backends"
        expected = {method: service if method in served()[path] else "405" for method in METHODS}
        if path.endswith(NAME_OF_A_MODEL) and "%2F" in name:
            # An escaped slash is allowed for the catalog alone.
            expected = {method: to if to == service else "400" for method, to in expected.items()}
        assert resolved == expected


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/pull", "403"),
        ("/api/chat//", "403"),
        ("/api/pull/", "403"),
        ("/api/chatter", "403"),
        ("/v1", "403"),
        ("/v1/audio/transcriptions", "403"),
        ("/api/blobs%2Fsha256", "400"),
        ("/", "404"),
        ("/metrics", "404"),
        ("/healthz/x", "404"),
    ],
)
def test_no_other_path_reaches_a_service(routes: list[dict[str, Any]], path: str, target: str) -> None:
    assert {resolve(routes, method, path) for method in ("POST", "DELETE")} == {target}


@pytest.mark.parametrize("path", [path for path in served() if path.startswith(("/api", "/v1"))])
def test_a_slash_at_the_end_of_a_path_changes_nothing(routes: list[dict[str, Any]], path: str) -> None:
    path = path.replace("{name}", "llama3.2:latest")
    for method in METHODS:
        if path == "/v1/models" and method in ("GET", "HEAD"):
            continue  # The route of single models takes it and removes the slash.
        assert resolve(routes, method, path + "/") == resolve(routes, method, path)


def test_the_page_of_the_root_is_the_only_one_that_envoy_answers_with_200(routes: list[dict[str, Any]]) -> None:
    assert paths_with(routes, "200") == {"/": {"GET", "HEAD"}}


def test_envoy_waits_longer_for_authz_than_authz_takes(manager: dict[str, Any], routes: list[dict[str, Any]]) -> None:
    """Otherwise Envoy would answer without the denial's row while authz still decides."""
    (check,) = [each["typed_config"] for each in manager["http_filters"] if each["name"].endswith("ext_authz")]
    (head,) = [each["typed_config"] for each in manager["http_filters"] if each["name"] == "ext_authz_head"]
    checks = [check, head["extension_config"]["typed_config"]]
    timeouts = [
        *(each["grpc_service"]["timeout"] for each in checks),
        *(r["route"]["timeout"] for r in routes if target_of(r) == "catalog"),
    ]
    assert min(float(timeout.removesuffix("s")) for timeout in timeouts) > CHECK_TIMEOUT_S

"""Checks that precede the routing of a request: the credential, the host name and the origin."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import SecretStr

from ops.simulator.dialects.media_types import JSON_UTF8
from ops.simulator.routing import path_of

_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_ALLOWED_HEADERS = (
    "Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "Openai-Beta", "X-Stainless-Arch",
    "X-Stainless-Async", "X-Stainless-Custom-Poll-Interval", "X-Stainless-Helper-Method", "X-Stainless-Lang",
    "X-Stainless-Os", "X-Stainless-Package-Version", "X-Stainless-Poll-Helper", "X-Stainless-Retry-Count",
    "X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Timeout",
)  # fmt: skip
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


@dataclass(frozen=True, slots=True)
class Auth:
    """The credential that a proxy in front of this Ollama requires: `Authorization: Bearer token`, or a raw header.

    `other_tokens` are accepted too, as such a proxy does during a rotation.
    """

    token: SecretStr
    header: str = "Authorization"
    scheme: str = "Bearer"
    other_tokens: tuple[SecretStr, ...] = ()

    def accepts(self, request: web.Request) -> bool:
        """Whether the request carries an accepted credential."""
        value = request.headers.get(self.header, "").encode()
        tokens = (self.token, *self.other_tokens)
        return any(hmac.compare_digest(value, self._header_value(token).encode()) for token in tokens)

    def _header_value(self, token: SecretStr) -> str:
        secret = token.get_secret_value()
        return f"{self.scheme} {secret}" if self.header.lower() == "authorization" else secret


def deny_access(request: web.Request, auth: Auth | None) -> web.Response | None:
    """The response that denies the request, or None to admit it.

    With a credential or TLS the simulator acts as an Ollama with its own proxy, which leaves `/api/version` open.
    Without, it acts as one bound to loopback, which serves local host names only. Foreign origins always get an empty
    403.
    """
    if auth is not None and path_of(request.raw_path) != "/api/version" and not auth.accepts(request):
        return web.Response(status=401, body=b'{"error":"unauthorized"}', headers={"Content-Type": JSON_UTF8})
    if auth is None and not request.secure and not is_local_host(request.headers.get("Host", "")):
        return web.Response(status=403)
    origin = request.headers.get("Origin")
    if not origin:
        return None
    if not _is_local_origin(origin):
        return web.Response(status=403)
    return _preflight_response(origin) if request.method == "OPTIONS" else None


def add_origin_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Allows a script of the request's origin to read the response, as Ollama does for local origins."""
    origin = request.headers.get("Origin")
    if origin and _is_local_origin(origin) and request.method != "OPTIONS":
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers.add("Vary", "Origin")


def _preflight_response(origin: str) -> web.Response:
    response = web.Response(status=204)
    response.headers["Access-Control-Allow-Headers"] = ",".join(_ALLOWED_HEADERS)
    response.headers["Access-Control-Allow-Methods"] = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Max-Age"] = "43200"
    for name in ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"):
        response.headers.add("Vary", name)
    return response


def is_local_host(host: str) -> bool:
    """Whether an Ollama on loopback serves this Host header: local names and private addresses, with any port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _is_local_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme in _APP_SCHEMES:
        return True
    return parts.scheme in ("http", "https") and parts.hostname in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104

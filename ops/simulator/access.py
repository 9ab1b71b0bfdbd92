"""What turns a request away before it is routed: a missing credential, a foreign host name, a foreign origin."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import SecretStr

from ops.simulator.dialects.base import JSON_UTF8
from ops.simulator.routes import path_of

_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


@dataclass(frozen=True, slots=True)
class Auth:
    """The credential a proxy before this Ollama asks for: `Authorization: Bearer token`, or a raw header.

    `others` are tokens that it takes as well, as such a proxy does while one is rotated.
    """

    token: SecretStr
    header: str = "Authorization"
    scheme: str = "Bearer"
    others: tuple[SecretStr, ...] = ()

    def accepts(self, request: web.Request) -> bool:
        """Whether the request carries it."""
        given = request.headers.get(self.header, "").encode()
        return any(hmac.compare_digest(given, self._sent(token).encode()) for token in (self.token, *self.others))

    def _sent(self, token: SecretStr) -> str:
        secret = token.get_secret_value()
        return f"{self.scheme} {secret}" if self.header.lower() == "authorization" else secret


def refuse(request: web.Request, auth: Auth | None) -> web.Response | None:
    """The answer that turns the request away, or None to let it in.

    With a credential or TLS this plays an Ollama behind its own proxy; `/api/version` is open then. Without, it
    plays one bound to loopback, which serves local host names only. Foreign origins get an empty 403 in any case.
    """
    if auth is not None and path_of(request.raw_path) != "/api/version" and not auth.accepts(request):
        return web.Response(status=401, body=b'{"error":"unauthorized"}', headers={"Content-Type": JSON_UTF8})
    if auth is None and not request.secure and not host_is_local(request.headers.get("Host", "")):
        return web.Response(status=403)
    origin = request.headers.get("Origin")
    return web.Response(status=403) if origin and not _origin_is_local(origin) else None


def host_is_local(host: str) -> bool:
    """Whether an Ollama on loopback serves this Host header: local names and private addresses, any port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _origin_is_local(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme in _APP_SCHEMES:
        return True
    return parts.scheme in ("http", "https") and parts.hostname in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104

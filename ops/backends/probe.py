"""Asking an Ollama, with exactly the credential and the TLS trust that Envoy has for it, and saying what is wrong."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gateway.errors import GatewayError
from gateway.settings.backend import Backend

ANSWER_BYTES_MAX = 8 * 1024 * 1024
ANSWER_TIMEOUT_S = 10.0

# X509_V_ERR_… of OpenSSL: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_EXPIRED = 10
_NAME_MISMATCHES = (62, 64)


class ProbeError(GatewayError):
    """A backend's answer is missing or is no Ollama's; one sentence says how to remedy it, without a secret."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one replica says of itself: its version and the names of its models."""

    url: str
    version: str
    models: tuple[str, ...]


class OllamaClient:
    """Asks one replica of a backend at a time; `connect_timeout_s` and `answer_timeout_s` bound each question."""

    def __init__(
        self, session: aiohttp.ClientSession, connect_timeout_s: float, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=answer_timeout_s, sock_connect=connect_timeout_s)

    async def look(self, backend: Backend, url: str) -> Found:
        """Its version and models. Raises ProbeError."""
        # Only the models need the credential everywhere, so a wrong one is found first.
        models = _models(url, await self.ask(backend, url, "/api/tags"))
        return Found(url, _version(url, await self.ask(backend, url, "/api/version")), models)

    async def ask(self, backend: Backend, url: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        """The JSON object that it answers to a GET, or to a POST of `body`. Raises ProbeError."""
        credential = backend.credential()
        headers = {credential[0]: credential[1].get_secret_value()} if credential else {}
        trust = _trust(backend)
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                url + path,
                json=body,
                headers=headers,
                timeout=self._timeout,
                ssl=trust,
                allow_redirects=False,
            ) as answer:
                if answer.status != HTTPStatus.OK:
                    raise ProbeError(_wrong_status(backend, url, path, answer))
                document = json.loads(await _bounded_body(answer))
        except TimeoutError:
            raise ProbeError(
                f"{url} did not answer {path} in time; see whether it is overloaded, or a firewall drops what is sent"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProbeError(_no_answer(backend, url, error)) from None
        except (ValueError, RecursionError):
            raise ProbeError(_no_ollama(url, f"{path} answers no JSON")) from None
        if not isinstance(document, dict):
            raise ProbeError(_no_ollama(url, f"{path} answers no JSON object"))
        return document


def _version(url: str, document: dict[str, Any]) -> str:
    version = document.get("version")
    if not isinstance(version, str):
        raise ProbeError(_no_ollama(url, "/api/version names no version"))
    return version


def _models(url: str, document: dict[str, Any]) -> tuple[str, ...]:
    rows = document.get("models")
    names = [row.get("name") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ProbeError(_no_ollama(url, "/api/tags lists no models"))
    return tuple(str(name) for name in names)


async def _bounded_body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise ProbeError(_no_ollama(str(answer.url), f"it answers more than {ANSWER_BYTES_MAX} bytes"))
    return bytes(body)


def _trust(backend: Backend) -> ssl.SSLContext | bool:
    if backend.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=backend.ca_file)
    except OSError:
        raise ProbeError(
            f"the ca_file {backend.ca_file} cannot be read as PEM certificates; check the path and the file"
        ) from None


def _no_ollama(url: str, reason: str) -> str:
    return f"{url} is not an Ollama: {reason}; check the host and the port"


def _wrong_status(backend: Backend, url: str, path: str, answer: aiohttp.ClientResponse) -> str:
    status = answer.status
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        credential = backend.credential()
        if credential is not None:
            return (
                f"{url} refuses the token in the header {credential[0]} ({status}); "
                "check the token, and the header and scheme that it is expected in"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            return f"{url} demands a token (401); give the backend one"
        return (
            f"{url} refuses {path} (403); give the backend a token, or let that Ollama serve other hosts (OLLAMA_HOST)"
        )
    if 300 <= status < 400:
        place = urlsplit(answer.headers.get("Location", ""))
        where = f" to {place.scheme}://{place.netloc.rpartition('@')[2]}" if place.netloc else ""
        return f"{url} redirects {path}{where} ({status}); give the address that answers by itself"
    if status == HTTPStatus.NOT_FOUND:
        return _no_ollama(url, f"it has no {path} (404)")
    return f"{url} answers {path} with {status}; see that server's log"


def _no_answer(backend: Backend, url: str, error: Exception) -> str:
    """What a failed exchange means, most telling class first."""
    host = urlsplit(url).hostname or url
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _certificate(backend, url, host, error.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            return f"{url} does not speak TLS as expected; if it speaks plain HTTP, write http://"
        case aiohttp.ClientConnectorDNSError():
            return f"the host name {host} of {url} is not known; check its spelling, and the name server"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return f"{url} refuses connections; see whether Ollama runs there and listens on that address (OLLAMA_HOST)"
        case aiohttp.ClientConnectorError():
            return f"{url} cannot be reached ({error.os_error.strerror}); check the address and the network"
        case aiohttp.ClientResponseError() | aiohttp.ServerDisconnectedError():
            return f"{url} does not answer in HTTP; if it speaks TLS, write https://"
        case _:
            return f"{url} broke the connection off; see that server's log"


def _certificate(backend: Backend, url: str, host: str, error: Exception) -> str:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if code in _NAME_MISMATCHES:
        return (
            f"the certificate of {url} is not for {host}; use a name that it has, or give the server one for this name"
        )
    if code == _EXPIRED:
        return f"the certificate of {url} has expired; renew it"
    which = (
        f"by none of the authorities in {backend.ca_file}" if backend.ca_file else "by no authority that is known here"
    )
    return f"the certificate of {url} is signed {which}; give its authority's certificate as the backend's ca_file"

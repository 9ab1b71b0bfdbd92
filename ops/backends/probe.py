"""Queries an Ollama with exactly the credential and the TLS trust that Envoy has for it, and explains failures."""

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
    """A backend did not answer, or not as an Ollama does. `problem` and `remedy` are clauses without a secret."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__("; ".join(filter(None, (problem, remedy))))


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The version that one replica reports, and the names of its models."""

    url: str
    version: str
    models: tuple[str, ...]


class OllamaClient:
    """A client of single replicas. `connect_timeout_s` bounds connecting, `answer_timeout_s` the whole request."""

    def __init__(
        self, session: aiohttp.ClientSession, connect_timeout_s: float, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=answer_timeout_s, sock_connect=connect_timeout_s)

    async def probe(self, backend: Backend, url: str) -> ProbeResult:
        """Version and models of the replica at `url`. Raises ProbeError."""
        # Not every server requires the credential for /api/version, so /api/tags is queried first.
        models = _models(url, await self.query(backend, url, "/api/tags"))
        return ProbeResult(url, _version(url, await self.query(backend, url, "/api/version")), models)

    async def query(self, backend: Backend, url: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        """The JSON object that the replica returns for a GET, or for a POST of `body`. Raises ProbeError."""
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
                    raise _wrong_status(backend, url, path, answer)
                document = json.loads(await _bounded_body(answer))
        except TimeoutError:
            raise ProbeError(
                f"{url} did not answer {path} in time", "check whether it is overloaded or a firewall drops packets"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer(backend, url, error) from None
        except (ValueError, RecursionError):
            raise _not_ollama(url, f"{path} returned no JSON") from None
        if not isinstance(document, dict):
            raise _not_ollama(url, f"{path} returned no JSON object")
        return document


def _version(url: str, document: dict[str, Any]) -> str:
    version = document.get("version")
    if not isinstance(version, str):
        raise _not_ollama(url, "/api/version returned no version")
    return version


def _models(url: str, document: dict[str, Any]) -> tuple[str, ...]:
    rows = document.get("models")
    names = [row.get("name") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else [None]
    if not all(isinstance(name, str) for name in names):
        raise _not_ollama(url, "/api/tags returned no list of models")
    return tuple(str(name) for name in names)


async def _bounded_body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise _not_ollama(str(answer.url), f"it sent more than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def _trust(backend: Backend) -> ssl.SSLContext | bool:
    if backend.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=backend.ca_file)
    except OSError:
        raise ProbeError(
            f"the ca_file {backend.ca_file} cannot be read as PEM certificates", "check the path and the file"
        ) from None


def _not_ollama(url: str, reason: str) -> ProbeError:
    return ProbeError(f"{url} is not an Ollama: {reason}", "check the host and the port")


def _wrong_status(backend: Backend, url: str, path: str, answer: aiohttp.ClientResponse) -> ProbeError:
    status = answer.status
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        credential = backend.credential()
        if credential is not None:
            return ProbeError(
                f"{url} rejects the token in the header {credential[0]} ({status})",
                "check the token, and the header and scheme that the server expects",
            )
        if status == HTTPStatus.UNAUTHORIZED:
            return ProbeError(f"{url} requires a token (401)", "set the backend's token")
        return ProbeError(
            f"{url} denies {path} (403)", "set the backend's token, or make that Ollama serve other hosts (OLLAMA_HOST)"
        )
    if 300 <= status < 400:
        target = urlsplit(answer.headers.get("Location", ""))
        to = f" to {target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else ""
        return ProbeError(f"{url} redirects {path}{to} ({status})", "use the URL that serves it without a redirect")
    if status == HTTPStatus.NOT_FOUND:
        return _not_ollama(url, f"it has no {path} (404)")
    return ProbeError(f"{url} returned {status} for {path}", "see that server's log")


def _no_answer(backend: Backend, url: str, error: Exception) -> ProbeError:
    """Explains a failed exchange, by the most specific class of its error."""
    host = urlsplit(url).hostname or url
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _bad_certificate(backend, url, host, error.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            return ProbeError(f"the TLS handshake with {url} failed", "if the server speaks plain HTTP, use http://")
        case aiohttp.ClientConnectorDNSError():
            return ProbeError(
                f"the host name {host} of {url} does not resolve", "check its spelling and the name server"
            )
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return ProbeError(
                f"{url} refuses connections",
                "check that Ollama runs there and listens on that address (OLLAMA_HOST)",
            )
        case aiohttp.ClientConnectorError():
            return ProbeError(
                f"{url} cannot be reached ({error.os_error.strerror})", "check the address and the network"
            )
        case aiohttp.ClientResponseError() | aiohttp.ServerDisconnectedError():
            return ProbeError(f"{url} does not speak HTTP", "if the server speaks TLS, use https://")
        case _:
            return ProbeError(f"{url} closed the connection", "see that server's log")


def _bad_certificate(backend: Backend, url: str, host: str, error: Exception) -> ProbeError:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if code in _NAME_MISMATCHES:
        return ProbeError(
            f"the certificate of {url} is not for {host}",
            f"use a host name that it covers, or install a certificate for {host} on the server",
        )
    if code == _EXPIRED:
        return ProbeError(f"the certificate of {url} has expired", "renew it")
    signer = (
        f"by none of the authorities in {backend.ca_file}" if backend.ca_file else "by an authority that is not trusted"
    )
    return ProbeError(
        f"the certificate of {url} is signed {signer}", "set the backend's ca_file to its authority's certificate"
    )

"""Decides which error texts of a backend a caller may see. Pure.

Ollama's own sentences help the caller ("does not support tools"), and they name the model as the caller spelled it.
Addresses of the backends, file paths and sign-in links belong to the operator, and a body in another dialect would
break the caller's client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from gateway.errors import MESSAGE, Code, upstream_code
from gateway.record.grant import Grant
from gateway.request.model_name import spellings
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import BY_NAME, Dialect

# Statuses about the gateway's own credentials, account or route at the backend, not about the caller's.
_GATEWAY_FAULT_STATUSES = frozenset({401, 402, 403, 405, 407})
_STATUS_MAX = max(HTTPStatus)

# What no configuration lists and every Ollama has: its files, its runners on loopback, the link of its account.
_OWN = r"""signin_url
    | (?<![\w.-])(?:127(?:\.\d{1,3}){3}|0\.0\.0\.0|localhost|\[::1?\]):\d{2,5}\b
    | (?:^|[\s"'=(:~])/(?!(?:api|v1)/)[\w.@+-]+/\S  # a path of the file system
    | (?<!\w)[a-z]:[\\/](?!/)                       # with a drive
    | \bunix:\s"""
# The network errors of a backend that fails name machines that no configuration lists, such as those of its proxy.
_NETWORK = re.compile(
    r"""localhost | \w:// | //[\w.-]+:\d | \b(?:dial|lookup|getaddrinfo|resolve|x509|certificate|host)\b
    | (?<![\w.:-])(?=[\w.-]*[a-z_-])[\w.-]+:\d{2,5}\b(?!:\d)  # host:port, not line and column
    | (?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)             # IPv4
    | (?<![\w:.])(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?::[0-9a-f] | (?<![\w:.])(?:[0-9a-f]{1,4}:){7}[0-9a-f]  # IPv6
    | (?<![\w.-])(?-i:(?:[a-z0-9_-]+\.){2,}[a-z]{2,})     # a name with a domain; fields of Go's structs are CamelCase
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A longer text of a failing backend is replaced without a search, which takes time and would block other requests.
FAILURE_CHARACTERS_MAX = 4096
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|(.))")


def caller_status(status: int) -> int:
    """The status for the caller when a backend answers with the error `status`.

    502 if it rejects the gateway, or if the status is none of HTTP, such as NOT_AN_ANSWER.
    """
    return 502 if not 400 <= status <= _STATUS_MAX or status in _GATEWAY_FAULT_STATUSES else status


class BackendErrors:
    """The errors of the backends of one request, as its caller sees them.

    Only what belongs to the operator is replaced. In a 4xx that is the address of a configured backend, and what every
    Ollama has: a 4xx may repeat any other address from the request. A backend that fails may also name a
    machine that is not configured, so its text is replaced if it contains any address or host name, or is longer than
    FAILURE_CHARACTERS_MAX.
    """

    def __init__(self, grant: Grant) -> None:
        self._dialect = BY_NAME[grant.surface].dialect
        self._request_id = grant.request_id
        self._requested_model = grant.requested_model or grant.sent_model
        self._model = _model_pattern(grant)
        self._own = _own_pattern(grant.backend_addresses)

    def body(self, status: int, document: dict[str, Any] | None) -> bytes:
        """The backend's error body when the caller may see it, else the gateway's own in the caller's dialect.

        Both have the code and the type of the status, and the gateway's request id. `document` is the JSON object in
        the backend's body, None when there is none.
        """
        shown_status = caller_status(status)
        code = upstream_code(shown_status)
        if document is not None:
            document = self._respelled(document)
        if shown_status != status or document is None or not self._is_presentable(document, is_failing=status >= 500):
            return error_body(self._dialect, code, MESSAGE[code], self._request_id, status=shown_status)
        if self._dialect is Dialect.NATIVE:
            own: dict[str, Any] = {}
        elif self._dialect is Dialect.OPENAI:
            own = {"error": {**document["error"], "code": code}}
        else:
            own = {"request_id": self._request_id}
        # UTF-8 cannot carry a lone surrogate, which an escape in the backend's JSON may contain.
        return json.dumps({**document, **own}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def message(self, message: str, document: Mapping[str, Any] | None) -> str:
        """The backend's error text in mid-stream when the caller may see it, else the gateway's own.

        `document` is the JSON object of the frame that reports the error.
        """
        if len(message) > FAILURE_CHARACTERS_MAX:
            return MESSAGE[Code.BACKEND_ERROR]
        shown = self._respelled_text(message)
        is_foreign = (
            document is not None
            and "error" in document
            and not self._is_presentable(self._respelled(document), is_failing=True)
        )
        return MESSAGE[Code.BACKEND_ERROR] if is_foreign or self._leaks(shown, is_failing=True) else shown

    def _respelled(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document with the caller's spelling of the model in its message."""
        error = document.get("error")
        if isinstance(error, str):
            return {**document, "error": self._respelled_text(error)}
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return {**document, "error": {**error, "message": self._respelled_text(error["message"])}}
        return dict(document)

    def _respelled_text(self, text: str) -> str:
        return self._model.sub(lambda _: self._requested_model, text) if self._model else text

    def _is_presentable(self, document: Mapping[str, Any], *, is_failing: bool) -> bool:
        error = document.get("error")
        if self._dialect is Dialect.NATIVE:
            message, known = error, {"error"}
        else:
            message = error.get("message") if isinstance(error, dict) else None
            known = {"error", "type", "request_id"}
        if not isinstance(message, str) or not document.keys() <= known:
            return False
        return not any(self._leaks(text, is_failing=is_failing) for text in _strings(document))

    def _leaks(self, text: str, *, is_failing: bool) -> bool:
        """Searches the text and any JSON text within it, which is how llama-server's own errors arrive."""
        if is_failing and len(text) > FAILURE_CHARACTERS_MAX:
            return True
        texts = [text, _ESCAPE.sub(_unescaped, text)] if "\\" in text else [text]
        return any(self._own.search(each) or (is_failing and self._names_machine(each)) for each in texts)

    def _names_machine(self, text: str) -> bool:
        # The caller's own name of the model may look like a host with a port, such as `qwen2.5:72`.
        text = text.replace(self._requested_model, "MODEL")
        return _NETWORK.search(text) is not None


def _model_pattern(grant: Grant) -> re.Pattern[str] | None:
    """Finds the backend's names of the model in a text; None when the name is not one of Ollama's."""
    try:
        forms = spellings(grant.sent_model.lower())
    except ValueError:
        return None
    names = "|".join(map(re.escape, forms))
    return re.compile(rf"(?<![\w./:@-])(?:{names})(?![\w/:-]|\.\w)", re.IGNORECASE) if names else None


def _own_pattern(addresses: Iterable[str]) -> re.Pattern[str]:
    hosts = sorted({host for address in addresses if (host := urlsplit(f"//{address}").hostname)})
    return re.compile(" | ".join([_OWN, *map(_host_pattern, hosts)]), re.VERBOSE | re.IGNORECASE)


def _host_pattern(host: str) -> str:
    """Finds a host name or an address. A plain word, such as `ollama`, is one only where a host name can be."""
    name = re.escape(host)
    if host.isalpha():
        return (
            rf"(?<![\w.-]){name}:\d{{2,5}}\b | (?://|@){name}\b | (?<![\w.-]){name}\ port\b"
            rf" | \b(?:host|lookup|getaddrinfo|dial\ \w+):?\ {name}\b"
        )
    return rf"(?<![\w.-]){name}(?![\w-]|\.\w)"


def _strings(document: Mapping[str, Any]) -> Iterator[str]:
    """Every key and every string."""
    waiting: list[object] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += (*value.keys(), *value.values())
        elif isinstance(value, list):
            waiting += value


def _unescaped(escape: re.Match[str]) -> str:
    if escape[1]:
        return chr(int(escape[1], 16))
    return " " if escape[2] in "nrtbf" else escape[2]

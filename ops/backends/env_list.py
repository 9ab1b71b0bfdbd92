"""The list of backends as operators edit it, and as OLLAMA_BACKENDS holds it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from gateway.errors import Conflict, NotFound
from gateway.settings import Settings
from gateway.settings.backend import Backend

VARIABLE = "OLLAMA_BACKENDS"
HIDDEN = "***"
_SINGLE = {"ollama_base_url", "ollama_auth_token", "ollama_auth_header", "ollama_auth_scheme"}
Backends = tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class InitialList:
    """The backends to begin with. `note` says in a sentence what becomes of the single one, if there was one."""

    backends: Backends
    note: str | None = None


def listed(settings: Settings) -> InitialList:
    """The list, or the single backend if somebody chose it: it becomes the first entry and keeps its token."""
    if settings.ollama_backends:
        return InitialList(settings.ollama_backends)
    (single,) = settings.backends
    if _SINGLE & settings.model_fields_set:
        return InitialList(
            (single,), f"the single backend of OLLAMA_BASE_URL, {single.base_url}, is the first of the list"
        )
    return InitialList(
        (), f"the list replaces {single.base_url}, the default of OLLAMA_BASE_URL; add it too if it is used"
    )


def find(backends: Backends, name: str) -> Backend | None:
    """The one of that name."""
    return next((backend for backend in backends if backend.name == name), None)


def put(backends: Backends, backend: Backend, *, replace: bool) -> Backends:
    """With `backend` as the last, or in the place of the one of its name. Raises Conflict if that is not meant."""
    if find(backends, backend.name) is None:
        return (*backends, backend)
    if not replace:
        raise Conflict(f"there is a backend {backend.name} already; change it with --replace, or choose another name")
    return tuple(backend if each.name == backend.name else each for each in backends)


def remove(settings: Settings, name: str) -> Backends:
    """The list without that one. Raises NotFound, and Conflict for the single backend, which is in no list."""
    backends = settings.backends
    if find(backends, name) is None:
        raise NotFound(f"there is no backend {name}; there is {', '.join(each.name for each in backends)}")
    if not settings.ollama_backends:
        raise Conflict(f"{name} is the single backend of OLLAMA_BASE_URL and in no list; change that setting instead")
    return tuple(each for each in backends if each.name != name)


def changed(known: Backend | None, given: Mapping[str, Any]) -> Backend:
    """The backend that is `given`. It keeps what is not, but only at the same address, because a token never moves.

    Raises ValidationError.
    """
    entry = Backend.model_validate(given)
    if known is None or known.base_url != entry.base_url:
        return entry
    return known.model_copy(update={name: getattr(entry, name) for name in given})


def value_of(backends: Backends) -> str:
    """OLLAMA_BACKENDS with every token in it, and without what a shell or an env file reads more into."""
    text = json.dumps([_entry(backend, reveal=True) for backend in backends]) if backends else ""
    return text.replace("$", r"\u0024").replace("'", r"\u0027").replace("`", r"\u0060")


def shown_value_of(backends: Backends) -> str:
    """The same for eyes, with stars in place of tokens."""
    return json.dumps([_entry(backend, reveal=False) for backend in backends]) if backends else ""


def shown(backend: Backend) -> dict[str, Any]:
    """One backend with all its fields; the token is stars, or None."""
    whole = backend.model_dump(mode="json")
    return {**whole, "auth_token": HIDDEN if backend.credential() else None}


def _entry(backend: Backend, *, reveal: bool) -> dict[str, Any]:
    """What differs from the defaults."""
    entry = backend.model_dump(mode="json", exclude_defaults=True, exclude={"auth_token"})
    token = backend.auth_token or SecretStr("")
    if token.get_secret_value():
        entry["auth_token"] = token.get_secret_value() if reveal else HIDDEN
    return entry

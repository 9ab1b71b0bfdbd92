"""The list of backends as operators edit it, and its form as OLLAMA_BACKENDS. Pure."""

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
_SINGLE_BACKEND_FIELDS = {"ollama_base_url", "ollama_auth_token", "ollama_auth_header", "ollama_auth_scheme"}
Backends = tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class InitialList:
    """The backends before a change. `note` is a sentence about OLLAMA_BASE_URL when the list replaces it, else None."""

    backends: Backends
    note: str | None = None


def initial_list(settings: Settings) -> InitialList:
    """The list to change. Without one it starts with the backend of OLLAMA_BASE_URL and its token, if that was set."""
    if settings.ollama_backends:
        return InitialList(settings.ollama_backends)
    (single,) = settings.backends
    if _SINGLE_BACKEND_FIELDS & settings.model_fields_set:
        return InitialList(
            (single,), f"the backend of OLLAMA_BASE_URL, {single.base_url}, becomes the first one in the list"
        )
    return InitialList(
        (), f"the list replaces {single.base_url}, the default of OLLAMA_BASE_URL; add that backend too if you use it"
    )


def find(backends: Backends, name: str) -> Backend | None:
    """The backend with that name, None when there is none."""
    return next((backend for backend in backends if backend.name == name), None)


def put(backends: Backends, backend: Backend, *, replace: bool) -> Backends:
    """The list with `backend` appended or, with `replace`, in the place of the one with its name.

    Raises Conflict when the name is taken and `replace` is false.
    """
    if find(backends, backend.name) is None:
        return (*backends, backend)
    if not replace:
        raise Conflict(f"the backend {backend.name} already exists; change it with --replace, or choose another name")
    return tuple(backend if each.name == backend.name else each for each in backends)


def remove(settings: Settings, name: str) -> Backends:
    """The list without that backend. Raises NotFound, and Conflict for the backend of OLLAMA_BASE_URL."""
    backends = settings.backends
    if find(backends, name) is None:
        raise NotFound(f"there is no backend {name}; the backends are {', '.join(each.name for each in backends)}")
    if not settings.ollama_backends:
        raise Conflict(f"{name} is the backend of OLLAMA_BASE_URL, not an entry of a list; change that setting instead")
    return tuple(each for each in backends if each.name != name)


def merged(known: Backend | None, fields: Mapping[str, Any]) -> Backend:
    """The backend of these `fields`; at the address of `known` it retains the other fields of `known`.

    At another address it retains nothing, so a token is never sent to a new address. Raises ValidationError.
    """
    entry = Backend.model_validate(fields)
    if known is None or known.base_url != entry.base_url:
        return entry
    return known.model_copy(update={name: getattr(entry, name) for name in fields})


def value_of(backends: Backends) -> str:
    """The value of OLLAMA_BACKENDS, tokens included. What a shell or an env file would interpret is escaped."""
    text = json.dumps([_entry(backend, reveal=True) for backend in backends]) if backends else ""
    return text.replace("$", r"\u0024").replace("'", r"\u0027").replace("`", r"\u0060")


def redacted_value_of(backends: Backends) -> str:
    """The value of OLLAMA_BACKENDS for display, with `***` in place of each token."""
    return json.dumps([_entry(backend, reveal=False) for backend in backends]) if backends else ""


def redacted(backend: Backend) -> dict[str, Any]:
    """All fields of a backend for display; `auth_token` is `***` or None."""
    fields = backend.model_dump(mode="json")
    return {**fields, "auth_token": HIDDEN if backend.credential() else None}


def _entry(backend: Backend, *, reveal: bool) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    entry = backend.model_dump(mode="json", exclude_defaults=True, exclude={"auth_token"})
    token = backend.auth_token or SecretStr("")
    if token.get_secret_value():
        entry["auth_token"] = token.get_secret_value() if reveal else HIDDEN
    return entry

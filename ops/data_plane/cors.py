"""Renders Envoy's CORS policy: which browsers may call, and what they may send and read. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gateway.wire.names import EXPOSED_HEADERS

# The headers of the official clients. `*` covers those of others, except where a browser takes it literally.
_ALLOWED_HEADERS = (
    "authorization, x-api-key, content-type, accept, user-agent, x-requested-with, anthropic-version, anthropic-beta,"
    " anthropic-dangerous-direct-browser-access, openai-beta, openai-organization, openai-project, x-stainless-arch,"
    " x-stainless-async, x-stainless-custom-poll-interval, x-stainless-helper-method, x-stainless-lang, x-stainless-os,"
    " x-stainless-package-version, x-stainless-poll-helper, x-stainless-retry-count, x-stainless-runtime,"
    " x-stainless-runtime-version, x-stainless-timeout, *"
)
_MAX_AGE_S = 7200
_NOTHING = r"[^\s\S]"
_STATE = "gateway.cors."


def origins_regex(origins: Sequence[str]) -> str:
    """Returns the regular expression (RE2) that an allowed origin matches as a whole; without origins none does."""
    return "|".join(".+" if origin == "*" else re.escape(origin) for origin in origins) or _NOTHING


def cors_policy(origins: Sequence[str]) -> dict[str, Any]:
    """Returns the policy by which Envoy's CORS filter answers preflights."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"safe_regex": {"regex": origins_regex(origins)}}],
        "allow_methods": "GET, HEAD, POST, OPTIONS",
        "allow_headers": _ALLOWED_HEADERS,
        "max_age": str(_MAX_AGE_S),
        # Chrome asks for it when a public page calls a gateway in a private network.
        "allow_private_network_access": True,
    }


def remembered_headers(origins: Sequence[str], request_id_header: str) -> list[dict[str, Any]]:
    """Returns the entries of the filter state: the CORS headers of a request's answer, absent for other origins.

    They are decided when the request arrives, because the meter removes its origin before it goes to a backend.
    """
    if not origins:
        return []
    # CEL. An origin has no character that a string literal would have to escape.
    allowed = "'origin' in request.headers"
    if "*" not in origins:
        allowed += f" && request.headers['origin'] in [{', '.join(map(repr, origins))}]"
    exposed = ", ".join(dict.fromkeys([*EXPOSED_HEADERS, request_id_header.lower()]))
    values = {
        "access-control-allow-origin": "request.headers['origin']",
        "access-control-expose-headers": repr(exposed),
        # A cache must not give one origin the answer to another.
        "vary": "'Origin'",
    }
    return [
        {
            "object_key": _STATE + name,
            "factory_key": "envoy.string",
            "format_string": {"text_format_source": {"inline_string": f"%CEL({allowed} ? {value} : '')%"}},
            "skip_if_empty": True,
        }
        for name, value in values.items()
    ]


def remembered_header_mutations() -> list[dict[str, Any]]:
    """Returns the mutations that add these headers to an answer. Envoy leaves out a header without a value."""
    return [
        {
            "append": {
                "header": {"key": name, "value": f"%FILTER_STATE({_STATE}{name}:PLAIN)%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for name in ("access-control-allow-origin", "access-control-expose-headers", "vary")
    ]

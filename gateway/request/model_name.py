"""The canonical name of a model. Pure. Allow-lists, discovery and request rewriting use it.

Ollama reads `[host/][namespace/]model[:tag]` from the right, ignores case and fills in defaults. A trailing `:local` or
`:cloud`, or a tag that ends in `-cloud`, states where the model runs. The canonical name is the short one that
`/api/tags` prints, in lower case and always with a tag.
"""

from __future__ import annotations

import re
from functools import lru_cache

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 512

# No part may contain whitespace, a scheme, a digest or non-ASCII letters.
_HOST = re.compile(r"[a-z0-9_][a-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}")
_PART = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")

_SHAPE = "a model name is [host/][namespace/]model[:tag] of ASCII letters, digits, '.', '_' and '-'"


def canonical(name: str) -> str:
    """The canonical name of the model `name`, such as `llama3.2:latest`, `user/m:t` or `hf.co/u/m:q4_k_m`.

    The name of a cloud model shows that it is one: `gpt-oss:20b-cloud`, and `m:cloud` for the default tag. Raises
    ValueError, with a sentence that does not repeat the input, when `name` is not a model name.
    """
    if not name.isascii() or len(name) > NAME_LENGTH_MAX:
        raise ValueError(_SHAPE)
    return _canonical(name)


# A gateway hosts few models, and each request names one.
@lru_cache(maxsize=1024)
def _canonical(name: str) -> str:
    base, place = _cut_place(name.lower())
    if place and _cut_place(base)[1]:
        raise ValueError("a model name can state only once whether the model is local or in the cloud")
    host, namespace, model, tag = _parts(base)
    if place == "cloud":
        tag = "cloud" if tag == DEFAULT_TAG else f"{tag}-cloud"
    if host != DEFAULT_HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == DEFAULT_NAMESPACE else f"{namespace}/{model}:{tag}"


def spellings(name: str) -> tuple[str, ...]:
    """The forms in which Ollama's messages name the model of the canonical `name`, the longest first.

    Ollama prints the full name, with its registry and namespace, or a short one.
    """
    host, namespace, model, tag = _parts(name)
    forms = (f"{host}/{namespace}/{model}:{tag}", f"{namespace}/{model}:{tag}", f"{model}:{tag}")
    return tuple(form for form in forms if canonical(form) == name)


def is_cloud(name: str) -> bool:
    """Whether Ollama runs the model `name` in its cloud. Raises ValueError as `canonical` does."""
    tag = canonical(name).rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def _cut_place(name: str) -> tuple[str, str]:
    base, colon, suffix = name.rpartition(":")
    if colon and suffix in ("cloud", "local"):
        return base, suffix
    if colon and "/" not in suffix and suffix.endswith("-cloud"):
        return name.removesuffix("-cloud"), "cloud"
    return name, ""


def _parts(name: str) -> tuple[str, str, str, str]:
    rest, tag = name, DEFAULT_TAG
    if name.rfind(":") > name.rfind("/"):
        rest, _, tag = name.rpartition(":")
    *path, model = rest.split("/")
    if len(path) > 2:
        raise ValueError(_SHAPE)
    host, namespace = [DEFAULT_HOST, DEFAULT_NAMESPACE][: 2 - len(path)] + path
    patterns = ((_HOST, host), (_NAMESPACE, namespace), (_PART, model), (_PART, tag))
    if not all(pattern.fullmatch(part) for pattern, part in patterns):
        raise ValueError(_SHAPE)
    return host, namespace, model, tag

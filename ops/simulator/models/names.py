"""Model names by Ollama's rules: which spellings mean the same model.

A name is `[scheme://][host/][namespace/]model[:tag]`. It is parsed from the right and compared without regard to case.
A final part `:cloud` or `:local`, or a tag that ends in `-cloud`, selects where the model runs; it does not belong to
the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_GO_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

Source = Literal["", "local", "cloud"]


class ConflictingSource(ValueError):
    """The name selects two sources at once, such as `m:cloud:local`."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete name. Two names mean the same model when their `key` is equal."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """The name with every part, in the caller's letter case."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """The form in which names are compared."""
        return self.full.lower()

    @property
    def display(self) -> str:
        """The shortest form that includes the tag, as `/api/tags` shows it."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != "registry.ollama.ai":
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace.lower() == "library" else f"{self.namespace}/{short}"


def split_source(text: str) -> tuple[str, Source]:
    """The name without its source suffix, and the source that the suffix selects. Raises ConflictingSource."""
    base, source = _split_suffix(text.strip(_GO_SPACE))
    if source and _split_suffix(base)[1]:
        raise ConflictingSource(text)
    return base, source


def parse(text: str) -> ModelName | None:
    """The name with defaults for missing parts, or None when Ollama rejects it as invalid."""
    rest, tag = text, "latest"
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, slash, model = rest.rpartition("/")
    namespace, host = "library", "registry.ollama.ai"
    if slash:
        rest, slash, namespace = rest.rpartition("/")
    if slash:
        host = rest.partition("://")[2] if "://" in rest else rest
    name = ModelName(host, namespace, model, tag)
    valid = (
        _HOST.fullmatch(host) and _NAMESPACE.fullmatch(namespace) and _PART.fullmatch(model) and _PART.fullmatch(tag)
    )
    return name if valid else None


def _split_suffix(text: str) -> tuple[str, Source]:
    base, colon, suffix = text.rpartition(":")
    if not colon:
        return text, ""
    suffix = suffix.strip(_GO_SPACE).lower()
    if suffix == "cloud":
        return base, "cloud"
    if suffix == "local":
        return base, "local"
    if suffix.endswith("-cloud") and "/" not in suffix:
        return text.rstrip(_GO_SPACE)[: -len("-cloud")], "cloud"
    return text, ""

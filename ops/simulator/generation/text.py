"""The text that the simulated models write, and its tokens.

A token is a run of at most seven ASCII letters or three digits with the space before it, or any other single ASCII
character. A non-ASCII character is one token per UTF-8 byte. Counts are exact by this rule, in the prompt and in the
answer.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_TOKEN = re.compile(r" ?[A-Za-z]{1,7}| ?[0-9]{1,3}|.", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]{5,24}")
_SCHEMA_DEPTH_MAX = 8
_PROMPT_CHARACTERS_MAX = 2000
_PHRASES: Mapping[str, list[str]] = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))


def tokenise(text: str) -> Iterator[str]:
    """The tokens of a text in order; joined they are the text. A byte that does not complete a character is ''."""
    for match in _TOKEN.finditer(text):
        token = match.group()
        yield from [""] * (len(token.encode("utf-8", "replace")) - len(token))
        yield token


def count_tokens(text: str) -> int:
    """The number of tokens of a text."""
    return sum(1 for _ in tokenise(text))


def seeded_random(*parts: object) -> random.Random:
    """A random number generator that is the same for the same parts in every process."""
    seed = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).digest()
    return random.Random(seed)  # noqa: S311 - it chooses words, not secrets


def sentences(prompt: str, rng: random.Random) -> Iterator[str]:
    """An endless sequence of sentences; the first one is about the prompt."""
    yield f"About {topic(prompt)}: {_sentence(rng)}"
    while True:
        yield f"\n\n{_sentence(rng)}" if rng.random() < 0.08 else f" {_sentence(rng)}"


def thoughts(prompt: str, rng: random.Random) -> str:
    """Two or three sentences of reasoning."""
    chosen = rng.sample(_PHRASES["thoughts"], rng.randint(2, 3))
    return " ".join(chosen).format(topic=topic(prompt))


def topic(prompt: str) -> str:
    """The longest word near the end of the prompt. Naming it makes an answer look like an answer."""
    return max(_WORD.findall(prompt[-_PROMPT_CHARACTERS_MAX:]), key=len, default="that").lower()


def example_value(schema: Any, rng: random.Random, depth: int = 0) -> Any:
    """A JSON value that fits a JSON schema of plain types; for `"json"` or no schema, a small object."""
    if not isinstance(schema, Mapping) or depth > _SCHEMA_DEPTH_MAX:
        return {"answer": _sentence(rng), "confidence": round(rng.random(), 2)}
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties")
        fields = properties if isinstance(properties, Mapping) else {}
        return {name: example_value(part, rng, depth + 1) for name, part in fields.items()}
    if kind == "array":
        return [example_value(schema.get("items", {"type": "string"}), rng, depth + 1) for _ in range(2)]
    scalars = {
        "integer": rng.randint(1, 100), "number": round(rng.uniform(0, 100), 2),
        "boolean": rng.random() < 0.5, "null": None,
    }  # fmt: skip
    return scalars.get(str(kind), rng.choice(("Oslo", "Zürich", "Porto", "Graz")))


def _sentence(rng: random.Random) -> str:
    subject, verb, thing, ending = (rng.choice(_PHRASES[part]) for part in ("subjects", "verbs", "objects", "endings"))
    return f"{subject} {verb} {thing}{ending}"

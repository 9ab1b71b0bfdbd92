"""What the simulated models say, and how it is cut into tokens.

Tokens: a run of at most seven ASCII letters or three digits, with the space before it; any other ASCII character
alone; a non-ASCII character is one token per UTF-8 byte. Counts are exact by this rule, on both sides of a request.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TOKEN = re.compile(r" ?[A-Za-z]{1,7}| ?[0-9]{1,3}|.", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]{5,24}")

_SUBJECTS = (
    "A careful design", "The simplest answer", "Most of the work", "A good rule of thumb", "The first measurement",
    "Every queue", "A small experiment", "The interesting part", "An honest estimate", "The usual mistake",
    "A quiet failure", "The second look", "What people call luck", "A clear name", "The oldest trick",
)  # fmt: skip
_VERBS = (
    "begins with", "depends on", "hides behind", "saves you from", "is worth more than", "starts as",
    "grows out of", "ends with", "makes room for", "asks for", "is easier to trust than", "rarely survives",
)  # fmt: skip
_OBJECTS = (
    "a question nobody wrote down", "the numbers you can check", "one boundary kept clean", "a second reader",
    "the shortest path through the data", "patience and a stopwatch", "a promise the machine can keep",
    "the case that never happens", "a limit somebody chose", "two lines of plain English",
    "the cost of being wrong", "a habit of looking twice", "the part that was left out",
)  # fmt: skip
_TAILS = (
    ".", ".", ".", ", and that is enough.", ", at least most days.", "; the rest follows.", ", even on a slow machine.",
    " (or so it seems at first).", ", in Zürich as in Oslo.", ", which costs 3 minutes and spares 40.",
)  # fmt: skip
_THOUGHTS = (
    "The user wants something about {topic}.", "Let me keep it short.", "First the main point, then an example.",
    "I should not guess numbers here.", "A plain answer will do.", "Checking the wording of {topic} once more.",
)  # fmt: skip


def tokenise(text: str) -> Iterator[str]:
    """The tokens of a text in order; joined they give the text. A byte that completes no character is ''."""
    for match in _TOKEN.finditer(text):
        token = match.group()
        yield from [""] * (len(token.encode("utf-8", "replace")) - len(token))
        yield token


def count_tokens(text: str) -> int:
    """How many tokens the text has."""
    return sum(1 for _ in tokenise(text))


def dice(*parts: object) -> random.Random:
    """A generator of numbers that is the same for the same parts, in every process."""
    seed = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).digest()
    return random.Random(seed)  # noqa: S311 - it chooses words, not secrets


def sentences(prompt: str, chance: random.Random) -> Iterator[str]:
    """Sentences without end, the first of them about the prompt."""
    yield f"About {topic(prompt)}: {_sentence(chance)}"
    while True:
        yield f"\n\n{_sentence(chance)}" if chance.random() < 0.08 else f" {_sentence(chance)}"


def thoughts(prompt: str, chance: random.Random) -> str:
    """Two or three sentences of reasoning."""
    chosen = chance.sample(_THOUGHTS, chance.randint(2, 3))
    return " ".join(chosen).format(topic=topic(prompt))


def topic(prompt: str) -> str:
    """The longest word of the prompt's end; it makes an answer look like an answer."""
    return max(_WORD.findall(prompt[-2000:]), key=len, default="that").lower()


def example(schema: Any, chance: random.Random, depth: int = 0) -> Any:
    """A JSON value that fits a JSON schema of plain types; for `"json"` or no schema a small object."""
    if not isinstance(schema, Mapping) or depth > 8:
        return {"answer": _sentence(chance), "confidence": round(chance.random(), 2)}
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return chance.choice(schema["enum"])
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties")
        fields = properties if isinstance(properties, Mapping) else {}
        return {name: example(part, chance, depth + 1) for name, part in fields.items()}
    if kind == "array":
        return [example(schema.get("items", {"type": "string"}), chance, depth + 1) for _ in range(2)]
    simple = {
        "integer": chance.randint(1, 100), "number": round(chance.uniform(0, 100), 2),
        "boolean": chance.random() < 0.5, "null": None,
    }  # fmt: skip
    return simple.get(str(kind), chance.choice(("Oslo", "Zürich", "Porto", "Graz")))


def _sentence(chance: random.Random) -> str:
    pick = chance.choice
    return f"{pick(_SUBJECTS)} {pick(_VERBS)} {pick(_OBJECTS)}{pick(_TAILS)}"

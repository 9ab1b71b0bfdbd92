"""The rule for gitleaks finds every key and nothing that only resembles one; the documented check is the real one."""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from authz.keys.key_format import generate, parse

ROOT = Path(__file__).parents[2]
(RULE,) = tomllib.loads((ROOT / "deploy/gitleaks.toml").read_text(encoding="utf-8"))["rules"]
# Go's \b and classes are those of ASCII.
REGEX = re.compile(RULE["regex"], re.ASCII)
PAGE = (ROOT / "docs/key-scanning.md").read_text(encoding="utf-8")


def key() -> str:
    return generate().secret.get_secret_value()


def findings(text: str) -> list[str]:
    """What gitleaks reports: matches with enough entropy in a text that has a keyword."""
    if not any(keyword in text.lower() for keyword in RULE["keywords"]):
        return []
    return [match for match in REGEX.findall(text) if entropy(match) > RULE["entropy"]]


def entropy(text: str) -> float:
    """Shannon's, in bits per character, as gitleaks computes it."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def test_every_generated_key_is_found() -> None:
    keys = [key() for _ in range(2000)]
    assert findings("\n".join(keys)) == keys


@pytest.mark.parametrize(
    "text",
    [
        '"{}"',
        "GATEWAY_API_KEY={}",
        "Authorization: Bearer {}",
        "http://user:{}@host",
        "?key=%3A{}%22",
        "{},{}",
        "- {}\n- {}",
    ],
)
def test_a_key_is_found_in_its_usual_places(text: str) -> None:
    first, second = key(), key()
    assert findings(text.format(first, second)) == [first, second][: text.count("{}")]


@pytest.mark.parametrize(
    "resembling",
    [
        lambda _: "nz_" + "x" * 41,
        lambda key: key[:12],
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: "sk-" + key[3:],
        lambda key: "NZ_" + key[3:],
        lambda key: key[:20] + "-" + key[21:],
    ],
    ids=["placeholder", "prefix", "short", "long", "other mark", "capitals", "other character"],
)
def test_nothing_else_is_found(resembling: Callable[[str], str]) -> None:
    assert findings(resembling(key())) == []


def test_the_page_has_the_pattern_of_the_rule() -> None:
    assert f"`{RULE['regex']}`" in PAGE


def test_the_documented_check_is_that_of_the_gateway() -> None:
    (source,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 (the page is ours)
    for made in (key() for _ in range(200)):
        changed = made[:20] + ("a" if made[20] != "a" else "b") + made[21:]
        for text in (made, changed, made[:-1], made + "0"):
            assert names["is_key"](text) == (parse(text) is not None)

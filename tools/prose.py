"""Checks the English of docstrings, comments, messages, names and pages against the rules in `prose.toml`.

`python -m tools.prose [PATH ...]` reads the files that git tracks, prints one line per finding and exits with 1 when
there is one. Text in backticks, code blocks of Markdown and quoted protocol data are not prose and are passed over.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RULES_FILE = Path(__file__).with_name("prose.toml")

# Files that quote others, or whose text is not the project's.
_NOT_OURS = re.compile(r"(^|/)(corpus|_envoy)/|\.lock$|^LICENSE$|^tools/prose\.toml$|^tests/tools/")
# How a comment begins, by the file's ending or name.
_COMMENT_SIGNS = {
    ".yaml": "#", ".yml": "#", ".toml": "#", ".sh": "#", ".example": "#", ".service": "#", ".target": "#", ".conf": "#",
    ".lua": "--", ".sql": "--", ".wat": ";;", "Makefile": "#", "Dockerfile": "#", "Caddyfile": "#", ".caddy": "#",
    ".compose": "#", ".tpl": "#",
}  # fmt: skip
# Python 3.12 and later split f-strings into parts.
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
_CODE_SPAN = re.compile(r"``[^`]+``|`[^`\n]*`")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK_TARGET = re.compile(r"\]\([^)\s]*\)|https?://\S+")
_HTML_CODE = re.compile(r"<(script|style|pre|code)\b.*?</\1>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `pattern` finds what is refused, `write` says what to write instead, `names` covers identifiers too."""

    pattern: re.Pattern[str]
    write: str
    names: bool


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and the line it begins on. An identifier comes with its underscores replaced by spaces."""

    line: int
    text: str
    is_name: bool = False


def load_rules(path: Path = RULES_FILE) -> list[Rule]:
    """The rules of a TOML file with `[[rule]]` tables of `pattern`, `write` and an optional `names`."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["rule"]
    return [
        Rule(re.compile(rf"\b(?:{table['pattern']})\b", re.IGNORECASE), table["write"], table.get("names", False))
        for table in tables
    ]


def findings(name: str, source: str, rules: Sequence[Rule]) -> Iterator[str]:
    """One line `name:line: text -> advice` for each refused passage of the file `name` with the text `source`."""
    for passage in _passages(name, source):
        for rule in rules:
            if passage.is_name and not rule.names:
                continue
            for match in rule.pattern.finditer(passage.text):
                line = passage.line + passage.text.count("\n", 0, match.start())
                yield f"{name}:{line}: {match.group()!r}; write: {rule.write}"


def _passages(name: str, source: str) -> Iterator[Passage]:
    suffix = Path(name).suffix or Path(name).name
    if suffix == ".py":
        yield from _python(source)
    elif suffix == ".md":
        yield Passage(1, _blank(_LINK_TARGET, _blank(_CODE_SPAN, _blank(_FENCE, source))))
    elif suffix == ".html":
        yield Passage(1, _blank(_HTML_CODE, source))
    elif (sign := _COMMENT_SIGNS.get(suffix) or _COMMENT_SIGNS.get(Path(name).name)) is not None:
        for number, line in enumerate(source.splitlines(), 1):
            before, found, comment = line.partition(sign)
            if found and not before.strip():
                yield Passage(number, _blank(_CODE_SPAN, comment))


def _python(source: str) -> Iterator[Passage]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type in _STRINGS and " " in token.string):
            yield Passage(token.start[0], _blank(_CODE_SPAN, token.string))
        elif token.type == tokenize.NAME:
            yield Passage(token.start[0], token.string.replace("_", " "), is_name=True)


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """`text` with each match replaced by blanks, so that line numbers stay."""
    return pattern.sub(lambda match: re.sub(r"\S", " ", match.group()), text)


def main(paths: Sequence[str], root: Path = Path()) -> int:
    """Checks the files that git tracks in `root`, or those of them below `paths`. Returns the exit code."""
    command = ["git", "-C", str(root), "ls-files", *paths]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (git, with our own words)
    rules = load_rules()
    found: list[str] = []
    for name in listing.stdout.splitlines():
        if not _NOT_OURS.search(name) and (root / name).is_file():
            try:
                source = (root / name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            found += findings(name, source, rules)
    for finding in found:
        print(finding)  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

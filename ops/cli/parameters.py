"""The types of option values (durations, dates, limits, names, prefixes, lists) and options that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar, cast

import rich_click as click

from authz.keys import key_format
from gateway.request.model_name import canonical
from gateway.settings import INTEGER_MAX, TOKENS_MAX
from gateway.values import Priority, Scope
from ops.database.policies import PolicyChange

T = TypeVar("T")

NAME_LENGTH_MAX = 100
BODY_BYTES_MAX = 64 * 1024 * 1024
WEIGHT_MAX = 100
DURATION_MAX = timedelta(days=36_500)

_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_NUMBER = re.compile(r"((?:\d{1,19}|\d{1,3}(?:[,_]\d{3}){1,6})(?:\.\d{1,9})?)([kKmMgG]?)", re.ASCII)
_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class LiteralMetavar(click.ParamType[T]):
    """A type whose `name` is its metavar unchanged: capitals are placeholders, lower case is literal."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 (click's signature)
        """The text after the option in the help."""
        return self.name


class Name(LiteralMetavar[str]):
    """The name of a tenant or key: 1 to 100 printable characters, stripped of surrounding blanks."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not 1 <= len(text) <= NAME_LENGTH_MAX or not text.isprintable():
            self.fail(f"expected 1 to {NAME_LENGTH_MAX} printable characters", param, ctx)
        return text


class Prefix(LiteralMetavar[str]):
    """The first characters of a key, or its name. A whole key is shortened to its prefix. No error repeats a key."""

    name = "PREFIX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        whole = key_format.parse(str(value).strip())
        text = whole.prefix if whole else str(value).strip()
        # What begins like a key and is longer than a prefix may be a mistyped key, so it is no name.
        longest = key_format.PREFIX_LENGTH if text.startswith(key_format.MARK) else NAME_LENGTH_MAX
        if not 1 <= len(text) <= longest or not text.isprintable() or text == key_format.MARK:
            self.fail("expected the first characters of a key, as `list-keys` shows them, or its name", param, ctx)
        return text


class Models(LiteralMetavar[list[str]]):
    """Model names separated by commas, in any spelling that Ollama accepts; converted to canonical names."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        models = set()
        for part in filter(None, map(str.strip, str(value).split(","))):
            try:
                models.add(canonical(part))
            except ValueError as error:
                self.fail(f"{part!r}: {error}", param, ctx)
        return sorted(models)


class Scopes(LiteralMetavar[list[str]]):
    """Scopes separated by commas, without duplicates."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        scopes = list(dict.fromkeys(filter(None, map(str.strip, str(value).split(",")))))
        known = [scope.value for scope in Scope]
        if not scopes or not set(scopes) <= set(known):
            self.fail(f"{value!r}: expected some of {', '.join(known)}, separated by commas", param, ctx)
        return scopes


class Duration(LiteralMetavar[timedelta]):
    """A length of time: a number with a unit of s, m, h, d or w, or `0`."""

    name = "24h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        duration = _duration(str(value).strip())
        if duration is None:
            self.fail(f"{value!r}: expected a number with a unit of s, m, h, d or w, such as 24h", param, ctx)
        return duration


class Timestamp(LiteralMetavar[datetime]):
    """A time: a duration after now (`future`) or before now, or an ISO date or time, in UTC unless it has a zone."""

    name = "90d|DATE"

    def __init__(self, *, future: bool) -> None:
        self._future = future

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text, now = str(value).strip(), datetime.now(UTC)
        duration = _duration(text)
        time = _iso_time(text) if duration is None else (now + duration if self._future else now - duration)
        if time is None:
            self.fail(
                f"{value!r}: expected a duration such as 90d, 12h or 2w, or a date such as 2030-12-31", param, ctx
            )
        if self._future and time <= now:
            self.fail(f"{value!r} is not in the future", param, ctx)
        return time


class Clear(Enum):
    """The value of an option given as `inherit` or `none`: remove the setting. An option that is not given is None."""

    CLEAR = "clear"


class Number(LiteralMetavar[int | Clear]):
    """A whole number from `minimum` to `maximum`, or the keyword, which is converted to CLEAR."""

    def __init__(self, minimum: int, maximum: int, keyword: str | None = None) -> None:
        self.name = f"N|{keyword}" if keyword else "N"
        self._minimum, self._maximum, self._keyword = minimum, maximum, keyword

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Clear:
        text = str(value).strip()
        if self._keyword and text.lower() == self._keyword:
            return Clear.CLEAR
        number = _whole_number(text)
        if not self._minimum <= number <= self._maximum:
            alternative = f" or `{self._keyword}`" if self._keyword else ""
            bounds = f"from {self._minimum:,} to {self._maximum:,}"
            self.fail(f"{value!r}: expected a whole number {bounds}, such as 500, 5k or 5M{alternative}", param, ctx)
        return number


def limit_options(keyword: str | None = None) -> Callable[[Any], Any]:
    """Adds `--rpm`, `--tpm`, `--concurrent`, `--max-output` and `--max-body`, each a number or the keyword."""

    def add(function: Any) -> Any:
        for option, minimum, maximum, text in (
            ("--max-body", 1024, BODY_BYTES_MAX, "Bytes of a body. Default: MAX_REQUEST_BODY_BYTES (8,388,608)."),
            ("--max-output", 1, INTEGER_MAX, "Output tokens per request. Default: MAX_NUM_PREDICT (4,096)."),
            ("--concurrent", 1, INTEGER_MAX, "Concurrent requests. Default: DEFAULT_CONCURRENT (8)."),
            ("--tpm", 1, TOKENS_MAX, "Tokens per minute. Default: DEFAULT_TPM (100,000)."),
            ("--rpm", 1, INTEGER_MAX, "Requests per minute. Default: DEFAULT_RPM (60)."),
        ):
            function = click.option(option, type=Number(minimum, maximum, keyword), help=text)(function)
        return function

    return add


def weight_option(keyword: str | None = None) -> Callable[[Any], Any]:
    """Adds `--weight`, a number or the keyword."""
    text = "Share of the slots while tenants wait for them. Default: 1."
    return click.option("--weight", type=Number(1, WEIGHT_MAX, keyword), help=text)


def priority_option(default: str | None = None) -> Callable[[Any], Any]:
    """Adds `--priority`."""
    text = "Class in the queue: interactive requests come before those of batch keys."
    kind = click.Choice([priority.value for priority in Priority])
    return click.option("--priority", type=kind, default=default, show_default=default is not None, help=text)


def policy_change(**options: int | bool | Clear | list[str] | None) -> PolicyChange:
    """The change of policy that these options request; options with the value None change nothing."""
    present = {name: value for name, value in options.items() if value is not None}
    return cast(PolicyChange, {name: None if value is Clear.CLEAR else value for name, value in present.items()})


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def _whole_number(text: str) -> int:
    """The number that `text` writes, also as 5k, 1.5M, 5_000 or 5,000; -1 for anything else."""
    if (match := _NUMBER.fullmatch(text)) is None:
        return -1
    number = Decimal(re.sub("[,_]", "", match[1])) * _MULTIPLES[match[2].lower()]
    return int(number) if number == number.to_integral_value() else -1


def _duration(text: str) -> timedelta | None:
    if text == "0":
        return timedelta()
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    try:
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        return None
    return duration if duration <= DURATION_MAX else None


def _iso_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None

"""What can stand behind the options: durations, dates, limits, names, prefixes and model lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar, cast

import rich_click as click

from authz.keys import key_format
from gateway.request.model_name import canonical
from gateway.values import Scope
from ops.database.policies import PolicyChange, PolicySubject

T = TypeVar("T")

INTEGER_MAX = 2**31 - 1
# Counts travel as doubles on the wire, exact up to here.
TOKENS_MAX = 2**53 - 1
NAME_LENGTH_MAX = 100
DURATION_MAX = timedelta(days=36_500)

_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Shown(click.ParamType[T]):
    """A type whose `name` stands in the help as it is: capitals are to be replaced, the rest is meant literally."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 (click's signature)
        """What stands behind the option in the help."""
        return self.name


class Name(Shown[str]):
    """The name of a tenant or key: 1 to 100 printable characters; blanks around it are dropped."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not 1 <= len(text) <= NAME_LENGTH_MAX or not text.isprintable():
            self.fail(f"expected 1 to {NAME_LENGTH_MAX} printable characters", param, ctx)
        return text


class Prefix(Shown[str]):
    """The first 12 characters of a key. A whole key is cut; nothing that was given is ever shown again."""

    name = "PREFIX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        whole = key_format.parse(str(value).strip())
        text = whole.prefix if whole else str(value).strip()
        if not key_format.is_prefix(text):
            self.fail("expected the first 12 characters of a key, as `list-keys` shows them", param, ctx)
        return text


class Models(Shown[list[str]]):
    """Model names, separated by commas, in whatever spelling Ollama takes; gives canonical names."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        models = set()
        for part in filter(None, map(str.strip, str(value).split(","))):
            try:
                models.add(canonical(part))
            except ValueError as error:
                self.fail(f"{part!r}: {error}", param, ctx)
        return sorted(models)


class Scopes(Shown[list[str]]):
    """Scopes, separated by commas."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        scopes = list(dict.fromkeys(filter(None, map(str.strip, str(value).split(",")))))
        known = [scope.value for scope in Scope]
        if not scopes or not set(scopes) <= set(known):
            self.fail(f"{value!r}: expected some of {', '.join(known)}, separated by commas", param, ctx)
        return scopes


class Duration(Shown[timedelta]):
    """A length of time: a number and one of s, m, h, d, w. `0` is none."""

    name = "24h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        duration = _duration(str(value).strip())
        if duration is None:
            self.fail(f"{value!r}: expected a number and one of s, m, h, d, w, such as 24h", param, ctx)
        return duration


class Timestamp(Shown[datetime]):
    """A moment as a duration from now, forwards or backwards, or as an ISO date or time (UTC if it says no zone)."""

    name = "90d|DATE"

    def __init__(self, *, ahead: bool) -> None:
        self._ahead = ahead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text, now = str(value).strip(), datetime.now(UTC)
        duration = _duration(text)
        moment = _moment(text) if duration is None else (now + duration if self._ahead else now - duration)
        if moment is None:
            self.fail(
                f"{value!r}: expected a duration such as 90d, 12h or 2w, or a date such as 2030-12-31", param, ctx
            )
        if self._ahead and moment <= now:
            self.fail(f"{value!r} is not in the future", param, ctx)
        return moment


class Clear(Enum):
    """What `inherit` and `none` mean: the value is taken away. (None is an option that was not given.)"""

    CLEAR = "absent"


class Number(Shown[int | Clear]):
    """A whole number from `least` to `most`, or `word`, which becomes CLEAR."""

    def __init__(self, least: int, most: int, word: str | None = None) -> None:
        self.name = f"N|{word}" if word else "N"
        self._least, self._most, self._word = least, most, word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Clear:
        text = str(value).strip()
        if self._word and text.lower() == self._word:
            return Clear.CLEAR
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not self._least <= number <= self._most:
            either = f" or `{self._word}`" if self._word else ""
            self.fail(f"{value!r}: expected a whole number from {self._least} to {self._most}{either}", param, ctx)
        return number


def subject_options(function: Any) -> Any:
    """Adds `--tenant` and `--prefix`; see `subject`."""
    function = click.option("--prefix", type=Prefix(), help="The key with this prefix.")(function)
    return click.option("--tenant", type=Name(), help="The tenant with this name.")(function)


def subject(tenant: str | None, prefix: str | None) -> PolicySubject:
    """The one that was named. Raises a usage error when it was not exactly one."""
    if (tenant is None) == (prefix is None):
        raise click.UsageError("give either --tenant or --prefix")
    return PolicySubject("tenant", tenant) if tenant is not None else PolicySubject("key", prefix or "")


def limit_options(word: str | None = None) -> Callable[[Any], Any]:
    """Adds `--rpm`, `--tpm` and `--concurrent`, each a number or `word`."""

    def add(function: Any) -> Any:
        for option, most, text in (
            ("--concurrent", INTEGER_MAX, "Requests at once."),
            ("--tpm", TOKENS_MAX, "Tokens per minute."),
            ("--rpm", INTEGER_MAX, "Requests per minute."),
        ):
            function = click.option(option, type=Number(1, most, word), help=text)(function)
        return function

    return add


def policy_change(**options: int | bool | Clear | list[str] | None) -> PolicyChange:
    """The change that these options ask for; those that were not given change nothing."""
    present = {name: value for name, value in options.items() if value is not None}
    return cast(PolicyChange, {name: None if value is Clear.CLEAR else value for name, value in present.items()})


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


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


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None

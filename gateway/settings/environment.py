"""Reads the settings from the environment and an env file. The only reader of the environment.

A setting `x_y` is the environment variable or env-file line `X_Y`; the environment takes precedence.
"""

from __future__ import annotations

import functools
import os
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gateway.errors import SettingsError
from gateway.settings.model import SECRET_FIELDS, Settings

_SIMILARITY_MIN = 0.85


def default_env_file(fallback: Path | None = None) -> Path | None:
    """`$GATEWAY_ENV_FILE`, else `./.env` if it exists, else `fallback` if it exists, else None.

    With a DATABASE_URL in the environment the settings do not come from a file, so `fallback` is not used.
    """
    if named := os.environ.get("GATEWAY_ENV_FILE"):
        return Path(named)
    if Path(".env").is_file():
        return Path(".env")
    return fallback if fallback and fallback.is_file() and "DATABASE_URL" not in os.environ else None


def load(env_file: Path | None = None) -> Settings:
    """Reads the settings from the environment and `env_file` (default: see `default_env_file`).

    Raises SettingsError, which lists each invalid setting: its name, its value unless that may contain a secret, and
    the expected values.
    """
    return _read(Settings, env_file or default_env_file())


def load_file_alone(env_file: Path) -> Settings:
    """The settings of `env_file`, regardless of the environment. Raises SettingsError like `load`."""
    return _read(_FileAlone, env_file)


def _read(kind: type[Settings], path: Path | None) -> Settings:
    if path is not None and not path.is_file():
        raise SettingsError(f"the env file {path} does not exist")
    try:
        return kind(_env_file=path)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(each) for each in error.errors())) from None
    except OSError as error:
        raise SettingsError(f"the env file {path} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"the env file {path} cannot be read: it is not UTF-8 ({error.reason})") from None


def _describe(error: ErrorDetails) -> str:
    field, *rest = (str(part) for part in error["loc"])
    place = field.upper() + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
    # A URL with credentials is invalid where none belong, and its password is still a secret.
    secret = field in SECRET_FIELDS or "@" in str(error["input"])
    given = "" if secret else f"={error['input']!r}"
    return f"{place}{given}: {_expectation(error)}"


def _expectation(error: ErrorDetails) -> str:
    """What the setting expects. pydantic's own messages address programmers."""
    limits = error.get("ctx", {})
    match error["type"]:
        case "int_parsing" | "int_type" | "int_from_float":
            return "expected a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return "expected a number"
        case "bool_parsing" | "bool_type":
            return "expected true or false"
        case "greater_than_equal":
            return f"expected {limits['ge']:,.15g} or more"
        case "greater_than":
            return f"expected more than {limits['gt']:,.15g}"
        case "less_than_equal":
            return f"expected {limits['le']:,.15g} or less"
        case "literal_error":
            return f"expected {limits['expected']}"
        case "string_pattern_mismatch":
            return f"expected a text that matches {limits['pattern']}"
        case "extra_forbidden":
            return "unknown field"
        case "missing":
            return "this field is required"
        case _:
            return error["msg"].removeprefix("Value error, ")


def misspelt_names(env_file: Path | None) -> dict[str, str]:
    """Names in the environment and in `env_file` that no setting has, with the setting that each resembles."""
    in_file = dotenv_values(env_file, interpolate=False) if env_file and env_file.is_file() else {}
    meant = {name: _setting_that_resembles(name.upper()) for name in sorted({*os.environ, *in_file})}
    return {name: setting for name, setting in meant.items() if setting is not None}


@functools.cache
def _setting_that_resembles(name: str) -> str | None:
    """The setting with the most similar name, None if there is a setting `name` or none is similar enough."""
    known = {each.upper() for each in Settings.model_fields}
    similar = [] if name in known else get_close_matches(name, known, n=1, cutoff=_SIMILARITY_MIN)
    return similar[0] if similar else None


class _FileAlone(Settings):
    """The settings of an env file, regardless of the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic-settings' signature)
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (dotenv_settings,)

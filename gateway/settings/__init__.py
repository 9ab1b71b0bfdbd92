"""Every setting of every service, and the only reader of the environment."""

from gateway.settings.environment import default_env_file, load, load_file_alone, misspelt_names
from gateway.settings.field_types import INTEGER_MAX, TOKENS_MAX
from gateway.settings.model import BACKEND_SETTINGS, SECRET_FIELDS, Settings, TlsFiles

__all__ = [
    "BACKEND_SETTINGS",
    "INTEGER_MAX",
    "SECRET_FIELDS",
    "TOKENS_MAX",
    "Settings",
    "TlsFiles",
    "default_env_file",
    "load",
    "load_file_alone",
    "misspelt_names",
]

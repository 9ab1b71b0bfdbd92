"""The parameters of a Modelfile, as `/api/show` prints them: one `name value` per line. Pure."""

from __future__ import annotations


def integer_parameter(parameters: object, name: str) -> int | None:
    """The value of the parameter `name` in the field `parameters` of /api/show, None when it has no such integer."""
    for line in parameters.splitlines() if isinstance(parameters, str) else ():
        key, _, value = line.strip().partition(" ")
        if key == name:
            try:
                return int(value)
            except ValueError:
                return None
    return None

"""Who makes a change of policy: what the triggers of `gateway.policy_changes` record besides the database role."""

from __future__ import annotations

import os
import pwd
import socket


def change_origin(command: str) -> dict[str, str]:
    """The parameters of PostgreSQL that state the command, the user of this process and the machine.

    The user is that of the process as the kernel knows it, not one that the environment names.
    """
    return {"gateway.command": command, "gateway.os_user": _user(), "gateway.host": socket.gethostname()}


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())

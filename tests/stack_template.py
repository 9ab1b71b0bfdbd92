"""A PostgreSQL cluster as the first start of `up` leaves it, so that the stacks of the tests need not create theirs.

initdb and the migrations take more CPU time than the rest of a start of `up`. `python -m tests.stack_template
DIRECTORY` makes the cluster. The tests in tests/ops and those with `executed_up` start without it, as an operator does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

from gateway.settings import Settings
from ops.database import migrate
from ops.embedded import stores
from ops.embedded.postgres import SUPERUSER_SECRET
from ops.embedded.state import StateDirectory
from tests import templates
from tests.forked_program import ForkedProgram

_TIMEOUT_S = 120.0


def copy_cluster(state: StateDirectory) -> None:
    """Gives a state directory the cluster, unless it has one. Its next start sets the passwords of the roles."""
    if state.postgres.exists():
        return
    made = StateDirectory(templates.template("stack", _make))
    shutil.copy(made.secrets / SUPERUSER_SECRET, state.secrets)
    state.make_private(state.postgres)
    templates.copy(made.postgres, state.postgres)


def _make(directory: Path) -> None:
    # In another process, because the caller may have a running event loop.
    log = directory.with_name("stack.log")
    code = ForkedProgram(__name__, str(directory), output=log, env=os.environ).wait(_TIMEOUT_S)
    assert code == 0, log.read_text()


async def main(directory: Path) -> None:
    """Makes the cluster in the state directory `directory`."""
    async with stores.running(directory, durable=False) as env:
        url, role = env["DATABASE_URL"], env["DATABASE_SERVICE_ROLE"]
        await migrate.upgrade(Settings(database_url=url, database_service_role=role))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

"""PostgreSQL and Redis for all tests, started once by each worker: the servers that the environment names, else
containers if a Docker engine answers, else the embedded binaries.

A worker shares no server with another one, unless TEST_DATABASE_URL names it. A PostgreSQL takes a second to start and
25 MB of memory, a Redis 5 MB, which is cheaper than the locks and the reference counts of shared servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
from pydantic import SecretStr
from xdist.scheduler import LoadFileScheduling

import migrations
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.retention import AUDIT_MONTHS_AHEAD
from ops.database.service_role import statements
from tests import servers, templates

# `make compose-test` runs the first, which needs a Docker engine, and `make soak` the others.
collect_ignore = ["compose", "e2e/test_soak.py", "e2e/test_queue_soak.py"]

# Who runs the suite in the background may have it ignore Ctrl-C, and what it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An authority whose key is lost: no test trusts the authorities of this machine, and OpenSSL would load them for each
# client of httpx and for each process that imports aiohttp, which takes 20 to 30 ms of CPU time.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("authority.pem"))
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)

# The workers and the services that they start compile the modules of this checkout once, and not at each start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")


# The folders whose tests start programs and wait for them: seconds each, where the others take milliseconds. A worker
# that has run a group first leaves tests/e2e, so that the stack of the group stops.
SLOW = ("tests/bench/", "tests/ops/embedded/", "tests/e2e/", "tests/ops/")

# The files of tests/e2e that share a stack, which takes seconds to start. Each group runs in one worker and starts its
# stack once, in this order. The longest group is the first one.
GROUPS = {
    "trial": ("crashes", "meter_killed"),
    # `top` shows totals, which begin at zero on a new stack.
    "queue": ("top", "fair_share", "learnt_slots"),
    "stack": (
        *("browsers", "carried", "catalog", "client_errors", "clients", "credentials", "edge", "identities", "limits"),
        *("long_bodies", "own_usage", "playground", "prompt_log", "security", "surfaces"),
    ),
    "one worker": ("connections", "context", "prompt_log_protection", "wrong_answers", "waits"),
    # These files kill and replace processes and backends of the stack.
    "another stack": ("faults", "fuzz_stack", "operators", "reload", "rolling_restart", "second_machine"),
}
GROUP_OF = {f"tests/e2e/test_{name}.py": group for group, names in GROUPS.items() for name in names}
# The stack's tests have imported the official clients, which takes 3 s of CPU time.
GROUP_OF |= dict.fromkeys(
    ("tests/ops/simulator/test_official_clients.py", "tests/authz/catalog/test_playground.py"), "stack"
)


_GC_THRESHOLDS = (50_000, 20, 20)
# All temporary directories of a run: 60 MB for each stack, half of it the databases of a new cluster.
_TEMPORARY_BYTES_MAX = 8 << 30


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Puts the temporary directories into memory if it has space. With `--basetemp` they are elsewhere, and remain."""
    if config.option.basetemp is None and (memory := templates.memory(_TEMPORARY_BYTES_MAX)) is not None:
        config.option.basetemp = str(templates.temporary("nz-tests", memory))
    _refuse_shared_redis(config)


def _refuse_shared_redis(config: pytest.Config) -> None:
    """Refuses several workers on the one Redis server that the environment names.

    The tests empty that server, publish on it and change its configuration. All of this concerns every database of a
    server, so that a database for each worker would not separate them.
    """
    if os.environ.get("TEST_REDIS_URL") and len(config.getoption("tx", None) or ()) > 1:
        raise pytest.UsageError(
            "TEST_REDIS_URL names one server, and each worker needs its own: run with -n 0 or unset TEST_REDIS_URL"
        )


def _begins_at_the_end(worker: str, workers: int) -> bool:
    """Whether a worker takes the files in the opposite order.

    The files at the end need the processor, while those at the beginning mostly wait for programs. So the one kind uses
    the time that the other one leaves. A low priority would let the programs of that worker miss their deadlines.
    """
    return workers > 2 and worker == f"gw{workers - 1}"


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collects without garbage collection, which would visit all tests and modules again and again, for 4 s.

    None of these objects is garbage before the end, so later collections do not visit them either. They are rarer than
    by default, because they would take a tenth of the time of the tests.
    """
    gc.disable()
    try:
        _import_tests(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()


def _import_tests(config: pytest.Config) -> None:
    """Imports the files of the tests in another order in each worker.

    pytest rewrites the assertions of each file for the first worker that imports it, which takes 5 s for all files. So
    each worker begins with files that the others find rewritten.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    root = config.rootpath
    given = [root / argument for argument in config.args]
    ignored = [Path(__file__).parent / path for path in collect_ignore]
    found = {file for path in given if path.is_dir() for file in path.rglob("test_*.py")}
    files = sorted(file for file in found if not any(file.is_relative_to(path) for path in ignored))
    first = int(worker.removeprefix("gw")) * len(files) // workers
    for file in (*files[first:], *files[:first]):
        # pytest imports the file again, and reports the error.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """All tests of a file run in one worker, in order, and so do those of the files of a group."""
    return _Scheduling(config, log)


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        return GROUP_OF.get(path, path)

    def _assign_work_unit(self, node: Any) -> None:
        if _begins_at_the_end(node.gateway.id, self.numnodes):
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the groups first and then the slow folders, so that at the end no worker waits long for another one."""
    order = [*GROUP_OF, *SLOW]

    def rank(item: pytest.Item) -> int:
        nodeid = item.nodeid
        return next((at for at, start in enumerate(order) if nodeid.startswith(start)), len(order))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server on which the tests may create databases."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a server that the tests may empty."""
    with servers.redis() as url:
        yield url


@pytest.fixture(scope="session")
def shared_database_url(postgres_url: str) -> Iterator[str]:
    """The URL of the worker's one database, which its tests use in turn; a database for each would be gigabytes."""
    name = f"t_{secrets.token_hex(6)}"
    asyncio.run(_run(postgres_url, f"CREATE DATABASE {name}"))
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    asyncio.run(_run(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def empty_database_url(shared_database_url: str) -> Iterator[str]:
    """The URL of a database without the schema; whatever the test makes of it, it leaves none to the next one."""
    drop = "DROP SCHEMA IF EXISTS gateway CASCADE"
    asyncio.run(_run(shared_database_url, drop))
    yield shared_database_url
    asyncio.run(_run(shared_database_url, drop))


@pytest.fixture
def fresh_database_url(empty_database_url: str) -> str:
    """The URL of a database whose schema was made just now."""
    asyncio.run(_run(empty_database_url, _SCHEMA))
    return empty_database_url


@pytest.fixture
def database_url(shared_database_url: str, delete_rows: Callable[[], None]) -> str:
    """The URL of a database with the schema and no rows; the schema may have served other tests."""
    delete_rows()
    return shared_database_url


@pytest.fixture(scope="session")
def delete_rows(shared_database_url: str) -> Iterator[Callable[[], None]]:
    """A function that leaves the schema without rows. It keeps its connection, which takes longer than the rest."""
    loop = asyncio.new_event_loop()
    # The role `replica` keeps triggers from firing, among them the one that makes the audit log append-only.
    role = {"session_replication_role": "replica"}
    connection = loop.run_until_complete(asyncpg.connect(shared_database_url, server_settings=role))
    yield lambda: loop.run_until_complete(_delete_rows(shared_database_url, connection))
    loop.run_until_complete(connection.close())
    loop.close()


@pytest.fixture(scope="session")
def service_role(shared_database_url: str) -> Iterator[Login]:
    """A role without privileges, which the tests share one after another."""
    login = Login(f"t_{secrets.token_hex(6)}", secrets.token_hex(12))
    asyncio.run(_run(shared_database_url, f"CREATE ROLE {login.role} LOGIN PASSWORD '{login.password}'"))
    yield login
    asyncio.run(_run(shared_database_url, f"DROP OWNED BY {login.role}; DROP ROLE {login.role}"))


@pytest.fixture
def service_database_url(database_url: str, service_role: Login) -> str:
    """`database_url` for authz and meter: its login may do what they need and nothing else."""
    asyncio.run(_run(database_url, ";".join(statements(service_role.role))))
    return service_role.url(database_url)


@pytest.fixture
def database_settings(database_url: str) -> Settings:
    """Settings for `database_url`, with cheap hashing."""
    return Settings(database_url=database_url, argon2_time_cost=1, argon2_memory_cost_kib=64, argon2_parallelism=1)


@pytest.fixture
async def database(database_settings: Settings) -> AsyncIterator[Database]:
    """An open Database."""
    database = Database(database_settings)
    yield database
    await database.close()


@pytest.fixture
async def service_database(database_settings: Settings, service_database_url: str) -> AsyncIterator[Database]:
    """The same database with the login of authz and meter."""
    service = database_settings.model_copy(update={"database_url": SecretStr(service_database_url)})
    database = Database(service)
    yield database
    await database.close()


class Login(NamedTuple):
    """A role and its password."""

    role: str
    password: str

    def url(self, url: str) -> str:
        """The same database, as this role."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{self.role}:{self.password}@{parts.netloc.rpartition('@')[2]}"))


_SCHEMA = f"""
CREATE SCHEMA gateway;
{";".join(path.read_text() for path in sorted(Path(migrations.__file__).parent.glob("versions/*.up.sql")))};
SELECT gateway.ensure_audit_partitions({AUDIT_MONTHS_AHEAD});
"""

_TABLES = tuple(
    f"gateway.{name}"
    for name in (
        *("tenants", "tenant_limits", "api_keys", "key_limits", "identities", "budget_usage", "revocations"),
        *("prompt_log", "audit_log", "audit_chain", "audit_tree", "ledger_rejects", "policy_changes"),
    )
)
_SEQUENCES = tuple(
    f"gateway.{name}_seq"
    for name in ("tenants_id", "api_keys_id", "identities_id", "revocations_id", "ledger_rejects_id", "audit_log")
)
# A writer that a test has left behind ends first.
_LOCK = f"LOCK TABLE {', '.join(_TABLES)} IN SHARE ROW EXCLUSIVE MODE"
_DELETIONS = ", ".join(f"_{number} AS (DELETE FROM {table})" for number, table in enumerate(_TABLES))  # noqa: S608
# Many times as fast as TRUNCATE, which gives each table and index a new file. One statement, which is prepared once.
_DELETE = f"""
WITH {_DELETIONS},
    _checkpoint AS (UPDATE gateway.audit_checkpoint SET made_at = NULL, note = NULL, claimed_until = '-infinity')
SELECT {", ".join(f"setval('{sequence}', 1, false)" for sequence in _SEQUENCES)}
"""  # noqa: S608


async def _delete_rows(url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    if not await connection.fetchval("SELECT to_regclass('gateway.audit_log') IS NOT NULL"):
        await _run(url, f"DROP SCHEMA IF EXISTS gateway CASCADE; {_SCHEMA}")
        return
    async with connection.transaction():
        await connection.execute(_LOCK, timeout=30)
        await connection.fetch(_DELETE, timeout=30)


async def _run(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script, timeout=30)
    finally:
        await connection.close()

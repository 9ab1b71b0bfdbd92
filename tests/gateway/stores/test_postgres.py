from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.errors import Conflict, DataRefused, StoreUnavailable
from gateway.service.lifecycle import leave_postgres_that_shuts_down
from gateway.settings import Settings
from gateway.stores.postgres import Database, storable
from tests.polling import eventually_async
from tests.postgres_relay import Relay
from tests.postgres_server import PostgresServer

ANSWER = "SELECT 42"


def _settings(url: str, **values: object) -> Settings:
    return Settings.model_validate({"database_url": url, "database_timeout_s": 1, **values})


async def test_a_server_is_used_once_it_starts_and_again_after_an_outage() -> None:
    with PostgresServer.temporary() as server:
        database = Database(_settings(server.url, database_timeout_s=2))
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await database.ping()
        await asyncio.to_thread(server.start)
        assert await database.fetchval(ANSWER) == 42
        await asyncio.to_thread(server.stop)
        with pytest.raises(StoreUnavailable):
            await database.ping()
        await asyncio.to_thread(server.start)
        assert await database.fetchval(ANSWER) == 42
        await database.close()


async def test_a_server_that_shuts_down_is_left_and_used_again() -> None:
    with PostgresServer.temporary() as server:
        await asyncio.to_thread(server.start)
        database = Database(_settings(server.url, database_timeout_s=2))
        listening = await database.connect()
        await database.ping()
        watch = asyncio.create_task(leave_postgres_that_shuts_down(database, 0.05))
        await asyncio.sleep(0.2)
        assert not listening.is_closed()
        await asyncio.to_thread(server.shut_down, 20)
        assert listening.is_closed()
        with pytest.raises(StoreUnavailable):
            await database.ping()
        await asyncio.to_thread(server.start)
        assert await database.fetchval(ANSWER) == 42
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await database.close()


@pytest.mark.parametrize(("size", "kept"), [(100, True), (0, False)])
async def test_behind_a_pooler_no_statement_stays_prepared(database_url: str, size: int, kept: bool) -> None:
    settings = _settings(database_url, database_statement_cache_size=size, database_timeout_s=5)
    database = Database(settings)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT $1::int", 42) == 42
        left = await connection.fetch("SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%::int%'")
    assert bool(left) is kept
    await database.close()


async def test_listening_goes_past_the_pooler_and_reports_go_to_the_replica(database_url: str) -> None:
    unreachable = "postgresql://u:p@127.0.0.1:1/db"
    behind_a_pooler = Database(_settings(unreachable, database_listen_url=database_url, database_timeout_s=5))
    connection = await behind_a_pooler.connect()
    assert await connection.fetchval(ANSWER) == 42
    await connection.close()
    with pytest.raises(StoreUnavailable):
        await behind_a_pooler.ping()

    settings = _settings(unreachable, database_report_url=database_url, database_timeout_s=5)
    reporting, serving = Database(settings, report=True), Database(settings)
    assert await reporting.fetchval(ANSWER) == 42
    with pytest.raises(StoreUnavailable):
        await serving.ping()
    for database in (behind_a_pooler, reporting, serving):
        await database.close()


async def test_a_command_past_its_deadline_is_unavailable_and_the_pool_lives_on(database_url: str) -> None:
    database = Database(_settings(database_url, database_pool_size=1, database_pool_overflow=0))
    with pytest.raises(StoreUnavailable, match="in time"):
        await database.execute("SELECT pg_sleep(60)")
    assert await database.fetchval(ANSWER) == 42
    await database.close()


@pytest.mark.parametrize("how", ["statement", "transaction"])
async def test_a_caller_that_gives_up_does_not_wait_for_a_frozen_server(database_url: str, how: str) -> None:
    async with Relay.to(database_url) as relay:
        database = Database(_settings(relay.url, database_timeout_s=60, database_pool_size=1, database_pool_overflow=0))
        await database.ping()

        async def ask() -> None:
            if how == "statement":
                await database.ping()
            else:
                async with database.transaction() as connection:
                    relay.open.clear()
                    await connection.execute(ANSWER)

        if how == "statement":
            relay.open.clear()
        asking = asyncio.create_task(ask())
        await eventually_async(lambda: not relay.open.is_set())
        await asyncio.sleep(0.05)  # Long enough for the question to be on its way; nothing hangs on it.
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=20)
        assert done
        assert asking.cancelled()
        relay.open.set()
        assert await database.fetchval(ANSWER) == 42
        await database.close()


async def test_a_cancelled_transaction_leaves_nothing(database: Database) -> None:
    inserted = asyncio.Event()

    async def insert() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO gateway.tenants (name) VALUES ('a')")
            inserted.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(insert())
    await inserted.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert await database.fetchval("SELECT count(*) FROM gateway.tenants") == 0


async def test_a_full_pool_is_unavailable_after_the_deadline(database_url: str) -> None:
    database = Database(_settings(database_url, database_pool_size=1, database_pool_overflow=0))
    async with database.connection():
        with pytest.raises(StoreUnavailable, match="in time"):
            await database.ping()
    await database.ping()
    await database.close()


async def test_the_pool_grows_by_its_overflow_and_no_further(database_url: str) -> None:
    database = Database(_settings(database_url, database_pool_size=1, database_pool_overflow=1))
    async with database.connection(), database.connection():
        with pytest.raises(StoreUnavailable):
            await database.ping()
    await database.close()


async def test_a_connection_that_the_server_ended_is_replaced(database: Database) -> None:
    async with database.connection() as killed, database.connection() as killer:
        pid = await killed.fetchval("SELECT pg_backend_pid()")
        await killer.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    for _ in range(3):
        assert await database.fetchval(ANSWER) == 42


async def test_a_constraint_is_a_conflict_and_the_transaction_is_undone(database: Database) -> None:
    with pytest.raises(Conflict):
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO gateway.tenants (name) VALUES ('a')")
            await connection.execute("INSERT INTO gateway.tenants (name) VALUES ('A')")
    assert await database.fetchval("SELECT count(*) FROM gateway.tenants") == 0


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT $1::text::varchar(3)::text::int", "secret"),
        ("SELECT $1::int", 2**31),
        ("SELECT array_fill(0, ARRAY[$1::int, $1::int])", 2**30),
        ("DO $$ BEGIN RAISE EXCEPTION 'secret'; END $$", None),
    ],
    ids=["a wrong value", "a value out of range", "one too large", "a function that raises"],
)
async def test_data_that_postgresql_never_accepts_is_data_refused_and_not_shown(
    database: Database, query: str, value: object
) -> None:
    with pytest.raises(DataRefused, match="rejects the data") as refusal:
        await database.execute(query, *([] if value is None else [value]))
    assert "secret" not in str(refusal.value)
    assert str(value) not in str(refusal.value)
    assert await database.fetchval(ANSWER) == 42


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://app:test@127.0.0.1:1/postgres", "cannot be reached"),
        ("postgresql://app:test@nowhere.invalid/postgres", "cannot be reached"),
    ],
)
async def test_the_error_for_an_unreachable_address_is_one_sentence(url: str, reason: str) -> None:
    with pytest.raises(StoreUnavailable, match=reason):
        await Database(_settings(url)).ping()


async def test_a_wrong_password_and_a_missing_database_are_named_without_the_password(postgres_url: str) -> None:
    wrong = postgres_url.replace(":test@", ":wr0ng-s3cret@")
    with pytest.raises(StoreUnavailable, match="rejected the login") as refusal:
        await Database(_settings(wrong, database_timeout_s=5)).ping()
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await Database(_settings(postgres_url.replace("/postgres", "/nothing"), database_timeout_s=5)).ping()


async def test_a_database_without_the_schema_says_what_to_run(empty_database_url: str) -> None:
    database = Database(_settings(empty_database_url, database_timeout_s=5))
    with pytest.raises(StoreUnavailable, match="neuronetz-gateway migrate"):
        await database.fetch("SELECT * FROM gateway.tenants")
    await database.close()


async def test_a_driver_error_inside_a_block_is_translated_too(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="UndefinedColumnError"):
        async with database.connection() as connection:
            await connection.execute("SELECT nothing")
    assert await database.fetchval(ANSWER) == 42


async def test_an_error_of_the_caller_passes_through_and_undoes_the_transaction(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO gateway.tenants (name) VALUES ('a')")
            raise KeyError
    assert await database.fetchval("SELECT count(*) FROM gateway.tenants") == 0


async def test_closing_cuts_what_does_not_end(database_url: str) -> None:
    database = Database(_settings(database_url, database_timeout_s=0.5))

    async def held() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
            await asyncio.Event().wait()

    task = asyncio.create_task(held())
    await database.ping()
    await database.close()
    task.cancel()
    with pytest.raises((asyncio.CancelledError, StoreUnavailable, asyncpg.InterfaceError)):
        await task


async def test_text_that_postgresql_refuses_is_made_storable(database: Database) -> None:
    assert await database.fetchval("SELECT $1::text", storable("a\0b\ud800c")) == "a\ufffdb?c"

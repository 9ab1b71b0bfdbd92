"""Where the tests get PostgreSQL and Redis from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres_server import PostgresServer
from tests.redis_server import one_server


@contextmanager
def postgres() -> Iterator[str]:
    """`$TEST_DATABASE_URL`, else a container, else the wheel's server."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    if _has_engine():
        from tests import containers

        if containers.engine_has(containers.POSTGRES_IMAGE):
            with containers.postgres() as url:
                yield url
            return
    with PostgresServer.temporary() as server:
        server.start()
        yield server.url


@contextmanager
def redis() -> Iterator[str]:
    """`$TEST_REDIS_URL`, else a container, else an embedded server."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    if _has_engine():
        from tests import containers

        if containers.engine_has(containers.REDIS_IMAGE):
            with containers.redis() as url:
                yield url
            return
    with one_server() as server:
        yield server.url


def _has_engine() -> bool:
    """Whether a Docker engine may answer where the library expects one. Without one, its import is saved: 0.3 s."""
    return bool(os.environ.get("DOCKER_HOST")) or Path("/var/run/docker.sock").exists()

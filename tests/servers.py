"""Where the tests get PostgreSQL and Redis from."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import docker
import redis as redis_driver
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.postgres_server import PostgresServer, answers
from tests.redis_server import one_server

POSTGRES_IMAGE = os.environ.get("POSTGRES_IMAGE", "postgres:18")
REDIS_IMAGE = os.environ.get("REDIS_IMAGE", "redis:7")
START_TIMEOUT_S = 60.0

# Each container ends with the context that started it, so nothing is left for a reaper to clean up.
testcontainers_config.ryuk_disabled = True


@contextmanager
def postgres() -> Iterator[str]:
    """`$TEST_DATABASE_URL`, else a container, else the wheel's server."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif _docker_has(POSTGRES_IMAGE):
        container = DockerContainer(POSTGRES_IMAGE).with_env("POSTGRES_USER", "app").with_env("POSTGRES_DB", "postgres")
        with _on_loopback(container.with_env("POSTGRES_PASSWORD", "test"), 5432) as running:
            url = f"postgresql://app:test@{_address(running, 5432)}/postgres"
            _wait(lambda: answers(url))
            yield url
    else:
        with PostgresServer.temporary() as server:
            server.start()
            yield server.url


@contextmanager
def redis() -> Iterator[str]:
    """`$TEST_REDIS_URL`, else a container, else an embedded server."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
    elif _docker_has(REDIS_IMAGE):
        with _on_loopback(DockerContainer(REDIS_IMAGE), 6379) as running:
            url = f"redis://{_address(running, 6379)}/0"
            _wait(lambda: redis_driver.Redis.from_url(url).ping())
            yield url
    else:
        with one_server() as server:
            yield server.url


@functools.cache
def _docker_has(image: str) -> bool:
    """Whether an engine answers and has the image, or can get it."""
    try:
        client = docker.from_env(timeout=60)
        try:
            if not client.images.list(image):
                client.images.pull(image)
            return True
        finally:
            client.close()
    except DockerException:
        return False


def _on_loopback(container: DockerContainer, port: int) -> DockerContainer:
    """Publishes a port on loopback alone; a free one is taken."""
    published: dict[Any, Any] = container.ports
    published[port] = ("127.0.0.1", None)
    return container


def _address(container: DockerContainer, port: int) -> str:
    return f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"


def _wait(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            look()
        except (OSError, asyncpg.PostgresError, redis_driver.RedisError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return

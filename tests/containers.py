"""PostgreSQL and Redis in containers of a Docker engine."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import redis as redis_driver
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.polling import eventually
from tests.postgres_server import CONNECTION_ERRORS, answers

POSTGRES_IMAGE = os.environ.get("POSTGRES_IMAGE", "postgres:18")
REDIS_IMAGE = os.environ.get("REDIS_IMAGE", "redis:7")
START_TIMEOUT_S = 60.0

# Each container ends with the context that started it, so nothing is left for a reaper to clean up.
testcontainers_config.ryuk_disabled = True


@functools.cache
def engine_has(image: str) -> bool:
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


@contextmanager
def postgres() -> Iterator[str]:
    """Runs a server and yields its URL."""
    container = DockerContainer(POSTGRES_IMAGE).with_env("POSTGRES_USER", "app").with_env("POSTGRES_DB", "postgres")
    with _on_loopback(container.with_env("POSTGRES_PASSWORD", "test"), 5432) as running:
        url = f"postgresql://app:test@{_address(running, 5432)}/postgres"
        eventually(lambda: answers(url), START_TIMEOUT_S, poll_s=0.1, retry_on=CONNECTION_ERRORS)
        yield url


@contextmanager
def redis() -> Iterator[str]:
    """Runs a server and yields its URL."""
    with _on_loopback(DockerContainer(REDIS_IMAGE), 6379) as running:
        url = f"redis://{_address(running, 6379)}/0"
        client = redis_driver.Redis.from_url(url)
        eventually(client.ping, START_TIMEOUT_S, poll_s=0.1, retry_on=(OSError, redis_driver.RedisError))
        yield url


def _on_loopback(container: DockerContainer, port: int) -> DockerContainer:
    """Publishes a port on loopback alone; a free one is taken."""
    published: dict[Any, Any] = container.ports
    published[port] = ("127.0.0.1", None)
    return container


def _address(container: DockerContainer, port: int) -> str:
    return f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"

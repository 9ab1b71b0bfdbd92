from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.compose.prepare import SERVICE_ROLE
from tests.compose import project as compose
from tests.compose.load import answered
from tests.compose.project import Project, run

PROJECT = "neuronetz-gateway-test"
POSTGRES_PASSWORD = "chosen by the operator: $1 'quoted'"
BACKEND_TOKEN = "token-of-the-backend-4711"


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """The images of this project; nothing else that the engine has is touched."""
    made = compose.build_images()
    yield
    run("docker", "image", "rm", *made)


@pytest.fixture(scope="session")
def former(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """An earlier installation: its volumes hold a tenant and a model, and nothing of it runs any more.

    Its PostgreSQL knows the owner of the tables and no service role.
    """
    settings = {"POSTGRES_PASSWORD": f'"{POSTGRES_PASSWORD}"'}
    former = Project(f"{PROJECT}-former", tmp_path_factory.mktemp("former"), settings)
    former.down()
    # What a run that was killed left behind, while the volumes of the former one are not yet part of it.
    Project(PROJECT, former.directory).down()
    try:
        former.compose("run", "--rm", "--quiet-pull", "migrate", "migrate")
        former.compose("run", "--rm", "migrate", "create-tenant", "--name", "adopted", "--allow-all-models")
        former.sql(f"DROP OWNED BY {SERVICE_ROLE}; DROP ROLE {SERVICE_ROLE}")
        former.compose("run", "--rm", "--no-deps", "ollama", "pull", "adopted-model")
        former.compose("down", "--timeout", "30")
        yield former
    finally:
        former.down()


@pytest.fixture(scope="session")
def project(former: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project that all tests share, on the volumes of the former one. It must end without leaving anything."""
    settings = {
        "POSTGRES_PASSWORD": f'"{POSTGRES_PASSWORD}"',
        "POSTGRES_DATA_VOLUME": f"{former.name}_postgres-data",
        "OLLAMA_DATA_VOLUME": f"{former.name}_ollama-data",
        "OLLAMA_AUTH_TOKEN": BACKEND_TOKEN,
    }
    project = Project(PROJECT, tmp_path_factory.mktemp("project"), settings)
    try:
        project.up()
        yield project
    finally:
        project.down()
    assert project.left() == []


@pytest.fixture(scope="session")
def key(project: Project) -> str:
    """A key of the tenant that was there before; the gateway admits requests."""
    key: str = project.cli("create-key", "--tenant", "adopted", "--name", "laptop")["key"]
    answered(project, key)
    return key

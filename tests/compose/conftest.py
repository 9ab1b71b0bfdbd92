from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.compose.prepare import SERVICE_ROLE
from tests.compose import project as compose
from tests.compose.load import complete_chat
from tests.compose.project import Project, run

PROJECT = "neuronetz-gateway-test"
POSTGRES_PASSWORD = "chosen by the operator: $1 'quoted'"
BACKEND_TOKEN = "token-of-the-backend-4711"


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """Builds the images of this project and removes them afterwards. Other images are not touched."""
    built = compose.build_images()
    yield
    run("docker", "image", "rm", *built)


@pytest.fixture(scope="session")
def earlier(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """An earlier installation that no longer runs. Its volumes contain a tenant and a model.

    Its PostgreSQL has the owner of the tables but no service role.
    """
    settings = {"POSTGRES_PASSWORD": f'"{POSTGRES_PASSWORD}"'}
    earlier = Project(f"{PROJECT}-earlier", tmp_path_factory.mktemp("earlier"), settings)
    earlier.down()
    # Removes the remains of a killed run, before the project uses the volumes of the earlier installation.
    Project(PROJECT, earlier.directory).down()
    try:
        earlier.compose("run", "--rm", "--quiet-pull", "migrate", "migrate")
        earlier.compose("run", "--rm", "migrate", "create-tenant", "--name", "adopted", "--allow-all-models")
        earlier.sql(f"DROP OWNED BY {SERVICE_ROLE}; DROP ROLE {SERVICE_ROLE}")
        earlier.compose("run", "--rm", "--no-deps", "ollama", "pull", "adopted-model")
        earlier.compose("down", "--timeout", "30")
        yield earlier
    finally:
        earlier.down()


@pytest.fixture(scope="session")
def project(earlier: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project that all tests share, on the volumes of the earlier installation. Fails if `down` leaves anything."""
    settings = {
        "POSTGRES_PASSWORD": f'"{POSTGRES_PASSWORD}"',
        "POSTGRES_DATA_VOLUME": f"{earlier.name}_postgres-data",
        "OLLAMA_DATA_VOLUME": f"{earlier.name}_ollama-data",
        "OLLAMA_AUTH_TOKEN": BACKEND_TOKEN,
    }
    project = Project(PROJECT, tmp_path_factory.mktemp("project"), settings)
    try:
        project.up()
        yield project
    finally:
        project.down()
    assert project.remaining_resources() == []


@pytest.fixture(scope="session")
def key(project: Project) -> str:
    """A key of the tenant of the earlier installation, returned when the gateway answers a chat with it."""
    key: str = project.cli("create-key", "--tenant", "adopted", "--name", "laptop")["key"]
    complete_chat(project, key)
    return key

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.errors import Conflict, NotFound
from gateway.settings import Settings, load_file_alone
from gateway.settings.backend import Backend
from ops.backends import env_list
from ops.host import env_file

NEAR = Backend(name="near", base_url="http://near:1", auth_token=SecretStr("s3cret"), auth_scheme="Key")
FAR = Backend(name="far", base_url="https://far", ca_file=Path("/ca.pem"))


def settings(*lines: str, directory: Path) -> Settings:
    path = directory / "env"
    path.write_text("".join(f"{line}\n" for line in lines))
    return load_file_alone(path)


def test_a_configured_single_backend_becomes_the_first_entry_with_its_token(tmp_path: Path) -> None:
    chosen = settings("OLLAMA_BASE_URL=http://one:1", "OLLAMA_AUTH_TOKEN=t", directory=tmp_path)
    initial = env_list.initial_list(chosen)
    assert json.loads(env_list.value_of(initial.backends)) == [
        {"name": "default", "base_url": "http://one:1", "auth_token": "t"}
    ]
    assert "first" in (initial.note or "")


def test_the_default_backend_is_replaced_with_a_note(tmp_path: Path) -> None:
    initial = env_list.initial_list(settings("DEFAULT_RPM=1", directory=tmp_path))
    assert initial.backends == ()
    assert "http://ollama:11434" in (initial.note or "")


def test_an_existing_list_is_the_initial_list(tmp_path: Path) -> None:
    value = env_list.value_of((NEAR, FAR))
    several = settings(f"OLLAMA_BACKENDS='{value}'", "OLLAMA_BASE_URL=http://one:1", directory=tmp_path)
    assert env_list.initial_list(several) == env_list.InitialList((NEAR, FAR))


def test_a_new_backend_is_appended_and_a_replacement_keeps_the_position() -> None:
    assert env_list.put((NEAR,), FAR, replace=False) == (NEAR, FAR)
    moved = Backend(name="near", base_url="http://elsewhere:1")
    assert env_list.put((NEAR, FAR), moved, replace=True) == (moved, FAR)
    with pytest.raises(Conflict, match="--replace"):
        env_list.put((NEAR,), moved, replace=False)


def test_a_token_is_retained_only_at_the_same_address() -> None:
    same = env_list.merged(NEAR, {"name": "near", "base_url": "http://near:1/", "auth_header": "X-API-Key"})
    assert same == NEAR.model_copy(update={"auth_header": "X-API-Key"})
    moved = env_list.merged(NEAR, {"name": "near", "base_url": "http://elsewhere:1"})
    assert moved.auth_token is None


def test_only_an_entry_of_the_list_can_be_removed(tmp_path: Path) -> None:
    both = Settings(ollama_backends=(NEAR, FAR))
    assert env_list.remove(both, "near") == (FAR,)
    with pytest.raises(NotFound, match="near, far"):
        env_list.remove(both, "other")
    with pytest.raises(Conflict, match="OLLAMA_BASE_URL"):
        env_list.remove(settings(directory=tmp_path), "default")


def test_no_token_is_displayed() -> None:
    shown = json.dumps(env_list.redacted(NEAR)) + env_list.redacted_value_of((NEAR, FAR))
    assert "s3cret" not in shown
    assert shown.count("***") == 2


@hypothesis.settings(max_examples=40)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)).map(str.strip))
def test_the_settings_and_a_shell_read_back_every_token_unchanged(
    tmp_path_factory: pytest.TempPathFactory, token: str
) -> None:
    backend = NEAR.model_copy(update={"auth_token": SecretStr(token) if token else None})
    line = env_file.line("OLLAMA_BACKENDS", env_list.value_of((backend,)))
    assert settings(line, directory=tmp_path_factory.mktemp("env")).ollama_backends == (backend,)
    script = f'{line}\nprintf %s "$OLLAMA_BACKENDS"'
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=10)
    assert Backend.model_validate(json.loads(shell.stdout)[0]) == backend

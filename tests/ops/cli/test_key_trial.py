"""test-key against a server that answers as the gateway does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from authz.keys.key_format import generate
from ops.cli import cli
from tests.http_servers import servers
from tests.ops.cli.conftest import write_env

KEY = generate()


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return write_env(tmp_path / "env", "postgresql://h/db")


def gateway(*, models: tuple[str, ...] = ("embed:1", "chat:1")) -> web.Application:
    """Answers the three requests of test-key for KEY, and 401 for other keys."""

    async def answer(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {KEY.secret.get_secret_value()}":
            return web.json_response({"error": {"message": "missing or invalid API key"}}, status=401)
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": model} for model in models]})
        if request.path == "/v1/usage":
            return web.json_response({})
        body = await request.json()
        usage = {"prompt_tokens": 9, "completion_tokens": 2}
        return web.json_response({"model": body["model"], "usage": usage if body["model"] == "chat:1" else {}})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application


def run(env_file: Path, typed: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--env-file", str(env_file), "test-key", *arguments], input=f"{typed}\n")


def test_a_key_that_works_is_reported_with_models_chat_and_usage(env_file: Path) -> None:
    with servers() as started:
        url = started.serve(gateway())
        result = run(env_file, KEY.secret.get_secret_value(), "--url", f"{url}/")
        document = run(env_file, KEY.secret.get_secret_value(), "--url", url, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert KEY.secret.get_secret_value() not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == f"the key {KEY.prefix} at {url}"
    assert [line.split()[0] for line in lines[1:]] == ["ok"] * 3
    assert "2 models: embed:1, chat:1" in lines[1]
    assert "chat:1: 9 input and 2 output tokens" in lines[2]
    assert [each["works"] for each in json.loads(document.stdout)["results"]] == [True] * 3


def test_a_key_that_is_refused_fails_with_the_words_of_the_gateway(env_file: Path) -> None:
    with servers() as started:
        url = started.serve(gateway())
        result = run(env_file, generate().secret.get_secret_value(), "--url", url)
    assert result.exit_code == 1
    assert "401: missing or invalid API key" in result.stdout


def test_a_mistyped_key_and_an_address_without_a_gateway_are_one_sentence(env_file: Path) -> None:
    mistyped = KEY.secret.get_secret_value()[:-1] + "_"
    for typed, arguments, reason in (
        (mistyped, (), "check digits are wrong"),
        (KEY.secret.get_secret_value(), ("--url", "http://127.0.0.1:1"), "does not answer as a gateway"),
    ):
        result = run(env_file, typed, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr
        assert typed[12:] not in result.stderr

"""connect: what it checks before it forwards, and a whole run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from authz.keys.key_format import generate
from ops.cli import cli
from tests.http_servers import servers
from tests.polling import eventually
from tests.ports import free_port

KEY = generate()
SECRET = KEY.secret.get_secret_value()


def gateway() -> web.Application:
    """Accepts KEY alone."""

    async def answer(request: web.Request) -> web.Response:
        accepted = request.headers.get("Authorization") == f"Bearer {SECRET}"
        return web.json_response({"data": []}, status=200 if accepted else 401)

    application = web.Application()
    application.router.add_route("*", "/v1/models", answer)
    return application


def run(url: str, key: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["connect", "--url", url, *arguments], env={"GATEWAY_API_KEY": key})


@pytest.mark.parametrize(
    ("key", "path", "sentence"),
    [
        ("nz_mistyped", "", "not a valid key"),
        (generate().secret.get_secret_value(), "", "does not accept the key"),
        (SECRET, "/elsewhere", "returns 404; check the address of the gateway"),
    ],
    ids=["mistyped", "denied", "wrong address"],
)
def test_a_key_or_an_address_that_is_wrong_ends_it_at_once(key: str, path: str, sentence: str) -> None:
    with servers() as started:
        result = run(started.serve(gateway()) + path, key)
    assert (result.exit_code, sentence in result.stderr) == (1, True), result.stderr
    assert SECRET not in result.output


def test_a_gateway_that_does_not_answer_is_named() -> None:
    result = run("http://127.0.0.1:9", SECRET)
    assert (result.exit_code, "http://127.0.0.1:9 does not answer" in result.stderr) == (1, True)


def test_it_listens_on_loopback_only() -> None:
    result = run("http://127.0.0.1:9", SECRET, "--listen", "0.0.0.0:11434")
    assert (result.exit_code, "loopback" in result.stderr) == (2, True)


def test_it_forwards_until_it_is_stopped() -> None:
    listen = f"127.0.0.1:{free_port()}"
    with servers() as started:
        command = [sys.executable, "-m", "ops.cli", "connect", "--url", started.serve(gateway()), "--listen", listen]
        process = subprocess.Popen(
            command, env={**os.environ, "GATEWAY_API_KEY": SECRET}, stdout=subprocess.PIPE, text=True
        )
        try:
            answer = eventually(lambda: httpx.get(f"http://{listen}/v1/models"), retry_on=(httpx.TransportError,))
            assert (answer.status_code, answer.json()) == (200, {"data": []})
        finally:
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert printed.splitlines()[1] == f"OLLAMA_HOST={listen} ollama list"
    assert SECRET not in printed

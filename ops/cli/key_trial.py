"""test-key: whether a key works, through the gateway, as a client uses it."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import rich_click as click
from click.exceptions import Exit

from authz.keys import key_format
from gateway.errors import GatewayError
from ops.cli.output import print_json, text
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.typed_key import read_typed_key
from ops.embedded.ready_file import read_running
from ops.host.client_environment import base_url

TIMEOUT_S = 120.0
MODELS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one request: what it tried, whether it worked, and the details."""

    request: str
    works: bool
    detail: str


@click.command("test-key")
@click.option("--url", metavar="URL", help="Address of the gateway. Default: the one that the settings define.")
@click.option("--model", metavar="MODEL", help="Model of the chat. Default: the first that the key may use.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trust this certificate authority, a file in PEM, such as caddy-root.crt of the state directory.",
)
@json_option
@pass_session
def test_key(session: Session, url: str | None, model: str | None, ca_file: Path | None, as_json: bool) -> None:
    """Read a key from standard input or a prompt, and try it: list models, chat, and read its usage.

    The chat generates a few tokens. Exit code 1 if the models or the chat fail.
    """
    key = key_format.parse(read_typed_key())
    if key is None:
        raise GatewayError("the input is not a valid key: its length or its check digits are wrong; copy it again")
    origin = (url or _origin(session)).rstrip("/")
    results = asyncio.run(_try(origin, key.secret.get_secret_value(), model, ca_file))
    if as_json:
        print_json({"url": origin, "prefix": key.prefix, "results": [asdict(result) for result in results]})
    else:
        click.echo(f"the key {key.prefix} at {origin}")
        for result in results:
            click.echo(f"{'ok' if result.works else 'failed':<7} {result.request:<27} {text(result.detail)}")
    if not all(result.works for result in results[:2]):
        raise Exit(1)


def _origin(session: Session) -> str:
    running = read_running(session.state_dir) if session.state_dir else None
    return str(running["url"]) if running else base_url(session.settings)


async def _try(origin: str, key: str, model: str | None, ca_file: Path | None) -> list[Result]:
    trust = ssl.create_default_context(cafile=ca_file) if ca_file else True
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as client:

        async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            async with client.request(method, f"{origin}{path}", json=body, ssl=trust) as response:
                return response.status, await response.json(content_type=None)

        try:
            status, listed = await call("GET", "/v1/models")
            models = [str(each["id"]) for each in listed["data"]] if status == 200 else []
            shown = ", ".join(models[:MODELS_SHOWN]) + (", …" if len(models) > MODELS_SHOWN else "")
            detail = f"{len(models)} models: {shown}" if models else _problem(status, listed)
            results = [Result("GET /v1/models", bool(models), detail)]
            if chosen := model or next((each for each in models if "embed" not in each), None):
                results.append(await _chat(call, chosen))
            status, usage = await call("GET", "/v1/usage")
            detail = "answers" if status == 200 else _problem(status, usage)
            results.append(Result("GET /v1/usage", status == 200, detail))
        except aiohttp.ClientConnectorCertificateError:
            raise GatewayError(
                f"the certificate of {origin} is not trusted; --ca-file names the one of its authority"
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise GatewayError(f"{origin} does not answer as a gateway: {error or type(error).__name__}") from None
    return results


async def _chat(call: Any, model: str) -> Result:
    started = time.monotonic()
    messages = [{"role": "user", "content": "Answer with one word: hello"}]
    body = {"model": model, "messages": messages, "max_tokens": 16}
    status, answer = await call("POST", "/v1/chat/completions", body)
    if status != 200:
        return Result("POST /v1/chat/completions", False, _problem(status, answer))
    usage = answer.get("usage", {})
    tokens = f"{usage.get('prompt_tokens')} input and {usage.get('completion_tokens')} output tokens"
    return Result("POST /v1/chat/completions", True, f"{model}: {tokens} in {time.monotonic() - started:.1f} s")


def _problem(status: int, answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f"{status}: {message}" if message else "no models" if status == 200 else f"status {status}"

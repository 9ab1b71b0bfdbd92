"""The proof that a running stack does what it says: two streamed chats, and what the books and the backend say of them.

Everything is done from outside, as an operator and a client would: through the command line and over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.errors import GatewayError

MODEL = "llama3.2:latest"
_STREAM_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 5.0
_COMMAND_TIMEOUT_S = 60.0
_ROWS_TIMEOUT_S = 20.0
_ROWS_POLL_S = 0.2


class ProofFailed(GatewayError):
    """Something was not as promised; the text lists what."""


@dataclass(frozen=True)
class Chat:
    """One request to be streamed: how to ask, how to read a line of the answer, and the line that ends it."""

    surface: str
    origin: str
    path: str
    prompt: str
    text_of: Callable[[str], str]
    is_last: Callable[[str], bool]
    ca_file: Path | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        return {"model": MODEL, "messages": [{"role": "user", "content": self.prompt}], "stream": True}


@dataclass(frozen=True)
class Streamed:
    """An answer as the client saw it; `complete` means that its last line came."""

    chat: Chat
    request_id: str
    complete: bool


@dataclass(frozen=True)
class Account:
    """One chat beside its two accounts; a missing one is None."""

    streamed: Streamed
    row: Mapping[str, Any] | None
    backend: Mapping[str, Any] | None

    def faults(self) -> list[str]:
        """What is not as it must be, in words; empty when all agree."""
        if not self.streamed.complete:
            return ["the stream ended early"]
        if self.row is None:
            return ["it left no usage row"]
        if self.backend is None:
            return ["the backend never saw it"]
        ours = (self.row["input_tokens"], self.row["output_tokens"])
        theirs = (self.backend["prompt_tokens"], self.backend["output_tokens"])
        faults = [] if ours == theirs else [f"booked {ours} tokens of input and output, the backend counted {theirs}"]
        if self.row["outcome"] != "complete":
            faults.append(f"its outcome is {self.row['outcome']}")
        return faults


def native(url: str, prompt: str, ca_file: Path | None = None) -> Chat:
    """A chat on Ollama's own surface: one JSON object a line, the last one with `done`."""
    return Chat(
        surface="Ollama",
        origin=url,
        path="/api/chat",
        prompt=prompt,
        text_of=lambda line: str(json.loads(line).get("message", {}).get("content", "")),
        is_last=lambda line: bool(json.loads(line).get("done")),
        ca_file=ca_file,
    )


def openai(url: str, prompt: str, ca_file: Path | None = None) -> Chat:
    """A chat on the OpenAI surface: server-sent events up to `[DONE]`."""

    def text_of(line: str) -> str:
        data = line.removeprefix("data: ")
        choices = json.loads(data).get("choices", []) if data.startswith("{") else []
        return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)

    return Chat(
        surface="OpenAI",
        origin=url,
        path="/v1/chat/completions",
        prompt=prompt,
        text_of=text_of,
        is_last=lambda line: line == "data: [DONE]",
        ca_file=ca_file,
    )


async def stream(chat: Chat, key: str, write: Callable[[str], None]) -> Streamed:
    """Asks with `key` and hands every piece of text to `write` as it comes. Raises ProofFailed without an answer."""
    trust = ssl.create_default_context(cafile=chat.ca_file) if chat.ca_file else True
    timeout = aiohttp.ClientTimeout(total=_STREAM_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {key}"}
    complete = False
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(chat.origin + chat.path, json=chat.body, ssl=trust) as answer,
        ):
            if answer.status != 200:
                raise ProofFailed(f"{chat.path} answered {answer.status}: {(await answer.text())[:300]}")
            async for line in _lines(answer):
                write(chat.text_of(line))
                complete = complete or chat.is_last(line)
            return Streamed(chat, answer.headers.get("X-Request-ID", ""), complete)
    except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError) as error:
        raise ProofFailed(f"{chat.path}: {type(error).__name__}: {error}") from None


async def accounts(streamed: Sequence[Streamed], backend_url: str, commands: Commands) -> list[Account]:
    """Reads the usage rows, waiting until each has come or the time is over, and what the simulated Ollama recorded."""
    wanted = {each.request_id for each in streamed}
    deadline = time.monotonic() + _ROWS_TIMEOUT_S
    while True:
        rows = {row["request_id"]: row for row in await commands.json("show-audit", "--since", "1h", "--json")}
        if wanted <= rows.keys() or time.monotonic() > deadline:
            break
        await asyncio.sleep(_ROWS_POLL_S)
    seen = await _recorded(backend_url)
    return [Account(each, rows.get(each.request_id), seen.get(each.request_id)) for each in streamed]


class Commands:
    """Runs the operator's commands on one env file, each in a separate process."""

    def __init__(self, env_file: Path, env: Mapping[str, str]) -> None:
        self._argv = (sys.executable, "-P", "-m", "ops.cli", "--env-file", str(env_file))
        self._env = dict(env)

    async def json(self, *arguments: str) -> Any:
        """The JSON document that a command prints; raises ProofFailed with its output when it fails."""
        code, output, errors = await self._run(arguments)
        if code != 0:
            raise ProofFailed(f"{arguments[0]}: {errors.strip()}")
        return json.loads(output)

    async def _run(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._argv, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self._env
        )
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, output.decode(), errors.decode()


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in answer.content:
        if text := line.decode().strip():
            yield text


async def _recorded(backend_url: str) -> dict[str, Mapping[str, Any]]:
    """The simulated Ollama's own records by the request id that the gateway sent along."""
    timeout = aiohttp.ClientTimeout(total=_CONNECT_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{backend_url}/_sim/requests") as answer,
    ):
        records = await answer.json()
    return {record["headers"].get("x-request-id", ""): record for record in records}

"""Proves that a running stack accounts correctly: streamed chats, their audit rows and the backend's own counts.

Everything goes through the public interfaces, as an operator and a client would use them: the command line and HTTP.
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
_AUDIT_TIMEOUT_S = 20.0
_AUDIT_POLL_S = 0.2


class ProofFailed(GatewayError):
    """The stack did not do what the demo promises. The message lists the discrepancies."""


@dataclass(frozen=True)
class Chat:
    """A request to stream, and how to read the lines of its answer.

    `text_of` returns the text that a line carries. `is_last` tests whether a line ends the answer regularly.
    """

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
class StreamedAnswer:
    """An answer as the client received it. `complete`: its last line arrived."""

    chat: Chat
    request_id: str
    complete: bool


@dataclass(frozen=True)
class Comparison:
    """One answer with its audit row and the record of the backend, either of which is None when it is missing."""

    answer: StreamedAnswer
    audit_row: Mapping[str, Any] | None
    backend_record: Mapping[str, Any] | None

    def discrepancies(self) -> list[str]:
        """The differences between the three, as sentences; empty when they agree."""
        if not self.answer.complete:
            return ["the stream ended early"]
        if self.audit_row is None:
            return ["it has no audit row"]
        if self.backend_record is None:
            return ["the backend did not receive it"]
        recorded = (self.audit_row["input_tokens"], self.audit_row["output_tokens"])
        counted = (self.backend_record["prompt_tokens"], self.backend_record["output_tokens"])
        discrepancies = []
        if recorded != counted:
            discrepancies.append(f"the row has {recorded} input and output tokens, the backend counted {counted}")
        if self.audit_row["outcome"] != "complete":
            discrepancies.append(f"its outcome is {self.audit_row['outcome']}")
        return discrepancies


def native_chat(url: str, prompt: str, ca_file: Path | None = None) -> Chat:
    """A chat on Ollama's own surface: one JSON object per line, the last one with `done`."""
    return Chat(
        surface="Ollama",
        origin=url,
        path="/api/chat",
        prompt=prompt,
        text_of=lambda line: str(json.loads(line).get("message", {}).get("content", "")),
        is_last=lambda line: bool(json.loads(line).get("done")),
        ca_file=ca_file,
    )


def openai_chat(url: str, prompt: str, ca_file: Path | None = None) -> Chat:
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


async def stream(chat: Chat, key: str, write: Callable[[str], None]) -> StreamedAnswer:
    """Sends the chat with `key` and passes every piece of text to `write` as it arrives.

    Raises ProofFailed when there is no answer.
    """
    trust = ssl.create_default_context(cafile=chat.ca_file) if chat.ca_file else True
    timeout = aiohttp.ClientTimeout(total=_STREAM_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {key}"}
    complete = False
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(chat.origin + chat.path, json=chat.body, ssl=trust) as response,
        ):
            if response.status != 200:
                raise ProofFailed(f"{chat.path} returned {response.status}: {(await response.text())[:300]}")
            async for line in _lines(response):
                write(chat.text_of(line))
                complete = complete or chat.is_last(line)
            return StreamedAnswer(chat, response.headers.get("X-Request-ID", ""), complete)
    except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError) as error:
        raise ProofFailed(f"{chat.path}: {type(error).__name__}: {error}") from None


async def compare(answers: Sequence[StreamedAnswer], backend_url: str, commands: OperatorCommands) -> list[Comparison]:
    """Compares the answers with their audit rows and with the records of the simulated Ollama.

    Waits up to 20 s for the rows. Raises ProofFailed when a command fails.
    """
    wanted = {answer.request_id for answer in answers}
    deadline = time.monotonic() + _AUDIT_TIMEOUT_S
    while True:
        rows = {row["request_id"]: row for row in await commands.json("show-audit", "--since", "1h", "--json")}
        if wanted <= rows.keys() or time.monotonic() > deadline:
            break
        await asyncio.sleep(_AUDIT_POLL_S)
    records = await _backend_records(backend_url)
    return [Comparison(answer, rows.get(answer.request_id), records.get(answer.request_id)) for answer in answers]


class OperatorCommands:
    """Runs the operator's commands on one env file, each in a separate process."""

    def __init__(self, env_file: Path, env: Mapping[str, str]) -> None:
        self._argv = (sys.executable, "-P", "-m", "ops.cli", "--env-file", str(env_file))
        self._env = dict(env)

    async def json(self, *arguments: str) -> Any:
        """The JSON document that a command prints. Raises ProofFailed with its stderr when it fails."""
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


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in response.content:
        if text := line.decode().strip():
            yield text


async def _backend_records(backend_url: str) -> dict[str, Mapping[str, Any]]:
    """The records of the simulated Ollama, by the request id that the gateway forwarded."""
    timeout = aiohttp.ClientTimeout(total=_CONNECT_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{backend_url}/_sim/requests") as response,
    ):
        records = await response.json()
    return {record["headers"].get("x-request-id", ""): record for record in records}

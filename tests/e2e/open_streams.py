"""Opens many streams at once, and waits for the ends of streams that break off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from tests.e2e.load import GenerationRequest

# The client, the backends and the gateway share the machine. A burst of new streams would overload it.
OPENINGS_PER_S = 50
OPENING_ATTEMPTS_MAX = 30
RETRY_AFTER_S = 2.0
WORDS = 4000


class StreamOpener:
    """A client with a key. `retried` counts the 503 answers after which it sent a request again."""

    def __init__(self, session: aiohttp.ClientSession, key: str) -> None:
        self._session = session
        self._key = key
        self.retried = 0

    async def open(self, models: Sequence[str]) -> list[aiohttp.ClientResponse]:
        """Opens one stream for each of `models`, in their order. All are open at the end, after their first frames."""
        answers = await asyncio.gather(*(self._open(model, index) for index, model in enumerate(models)))
        assert sum(answer.content.is_eof() or answer.content.exception() is not None for answer in answers) == 0
        return answers

    async def _open(self, model: str, index: int) -> aiohttp.ClientResponse:
        request = GenerationRequest("/api/chat", self._key, words=WORDS, model=model)
        await asyncio.sleep(index / OPENINGS_PER_S)
        for _ in range(OPENING_ATTEMPTS_MAX):
            answer = await self._session.post(request.path, json=request.body, headers=request.headers)
            if answer.status != 503:
                break
            await answer.read()
            self.retried += 1
            await asyncio.sleep(RETRY_AFTER_S)
        assert answer.status == 200, await answer.text()
        assert b'"content"' in await answer.content.readline()
        return answer


@asynccontextmanager
async def stream_opener(url: str, key: str) -> AsyncIterator[StreamOpener]:
    """A client without limits on connections and on the duration of a stream."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        yield StreamOpener(session, key)


def disconnect(answers: Sequence[aiohttp.ClientResponse]) -> None:
    """Closes the connections of the callers."""
    for answer in answers:
        answer.close()


async def check_broken_off(answers: Sequence[aiohttp.ClientResponse]) -> None:
    """Waits for the ends of the streams. Each of them is an error for its caller."""
    ends = await asyncio.gather(*(answer.read() for answer in answers), return_exceptions=True)
    assert {type(end) for end in ends} == {aiohttp.ClientPayloadError}

"""The HTTP client of an OTLP collector.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import aiohttp

ANSWER_BYTES_MAX = 65_536
"""How much of an answer is read. It is a message of a few bytes."""

_RETRYABLE = frozenset((429, 502, 503, 504))


class CollectorError(Exception):
    """The collector did not accept a request, which may be sent again."""


class RequestRefused(CollectorError):
    """The collector will not accept this request when it is sent again either."""


class Collector:
    """A collector at a base URL. Create it in a running event loop. `headers` are sent with every request."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._endpoint = endpoint
        self._session = aiohttp.ClientSession(
            headers={**headers, "Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=1),
        )

    async def post(self, path: str, body: bytes) -> int:
        """Sends a request and returns how many of its items the collector rejected. Raises CollectorError."""
        try:
            async with self._session.post(f"{self._endpoint}{path}", data=body, allow_redirects=False) as answer:
                text = await _read(answer.content)
                status = answer.status
        except TimeoutError:
            raise CollectorError("the collector did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CollectorError(str(error) or type(error).__name__) from None
        if status in _RETRYABLE:
            raise CollectorError(f"the collector answered {status}")
        if not 200 <= status < 300:
            raise RequestRefused(f"the collector answered {status}")
        return _rejected(text)

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._session.close()


async def _read(content: aiohttp.StreamReader) -> bytes:
    text = b""
    while len(text) < ANSWER_BYTES_MAX and (chunk := await content.read(ANSWER_BYTES_MAX - len(text))):
        text += chunk
    return text


def _rejected(answer: bytes) -> int:
    """The number of rejected items in an answer. Collectors without a partial success send an empty object."""
    try:
        match json.loads(answer):
            case {"partialSuccess": {"rejectedSpans": str() | int() as number}}:
                return max(0, int(number))
    except ValueError:
        return 0
    return 0

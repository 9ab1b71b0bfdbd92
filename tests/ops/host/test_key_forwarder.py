"""The forwarder of `connect`, between a client and a server that answers as the gateway does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from ops.host.key_forwarder import RUNNING, KeyForwarder
from tests.http_servers import HttpServers, servers

KEY = "nz_the-key-of-the-user"
FRAMES = [b'{"response":"a"}\n', b'{"response":"b","done":true}\n']


async def echo(request: web.Request) -> web.StreamResponse:
    """Answers with the request, as a stream below /stream, and with 401 below /denied."""
    if request.path == "/stream":
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        for frame in FRAMES:
            await answer.write(frame)
        return answer
    if request.path == "/broken":
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(FRAMES[0])
        assert request.transport is not None
        request.transport.abort()
        return answer
    if request.path == "/zipped":
        body = gzip.compress(b"text")
        return web.Response(body=body, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})
    document = {
        "method": request.method,
        "path": request.raw_path,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": (await request.read()).decode(),
    }
    return web.json_response(document, status=401 if request.path == "/denied" else 200, headers={"X-Request-ID": "r"})


@pytest.fixture(scope="module")
def running() -> Iterator[HttpServers]:
    with servers() as started:
        yield started


@pytest.fixture(scope="module")
def forwarder(running: HttpServers) -> str:
    gateway = web.Application()
    gateway.router.add_route("*", "/{path:.*}", echo)
    return running.serve(KeyForwarder(running.serve(gateway) + "/", SecretStr(KEY), trust=True).application())


def test_a_request_arrives_with_the_key_and_without_other_credentials(forwarder: str) -> None:
    body = json.dumps({"model": "m"})
    headers = {
        "Authorization": "ssh-key:signature", "X-Api-Key": "other", "Cookie": "a=b", "Content-Type": "application/json",
        "User-Agent": "ollama/1",
    }  # fmt: skip
    answer = httpx.post(f"{forwarder}/api/chat?ts=1", content=body, headers=headers)
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/api/chat?ts=1", body)
    assert seen["headers"]["authorization"] == f"Bearer {KEY}"
    assert {"x-api-key", "cookie", "transfer-encoding"}.isdisjoint(seen["headers"])
    assert (seen["headers"]["user-agent"], seen["headers"]["content-length"]) == ("ollama/1", str(len(body)))
    assert answer.headers["x-request-id"] == "r"


def test_a_body_without_a_length_arrives_whole(forwarder: str) -> None:
    seen = httpx.post(f"{forwarder}/api/chat", content=iter([b"one ", b"two"])).json()
    assert seen["body"] == "one two"


def test_a_stream_and_an_encoded_body_pass_unchanged(forwarder: str) -> None:
    with httpx.stream("POST", f"{forwarder}/stream") as answer:
        assert (answer.headers["content-type"], b"".join(answer.iter_raw())) == (
            "application/x-ndjson",
            b"".join(FRAMES),
        )
    assert httpx.get(f"{forwarder}/zipped").text == "text"


def test_a_stream_that_breaks_off_breaks_off_for_the_client_too(forwarder: str) -> None:
    with httpx.stream("POST", f"{forwarder}/broken") as answer, pytest.raises(httpx.RemoteProtocolError):
        answer.read()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_is_answered_by_the_forwarder(forwarder: str, method: str) -> None:
    answer = httpx.request(method, f"{forwarder}/")
    assert (answer.status_code, answer.text) == (200, RUNNING if method == "GET" else "")


def test_a_denied_key_is_403_with_the_text_of_the_gateway(forwarder: str) -> None:
    answer = httpx.get(f"{forwarder}/denied")
    assert (answer.status_code, answer.json()["path"]) == (403, "/denied")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://page.example"}, {"Origin": "null"}, {"Host": "rebound.example"}, {"Host": "10.0.0.1:11434"}],
)
@pytest.mark.parametrize("path", ["/", "/api/chat"])
def test_web_pages_and_foreign_names_are_refused(forwarder: str, path: str, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{forwarder}{path}", headers=headers)
    assert answer.status_code == 403
    assert "this forwarder serves" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost:11434", "127.0.0.1", "[::1]:11434"])
def test_names_of_loopback_are_served(forwarder: str, host: str) -> None:
    assert httpx.get(f"{forwarder}/", headers={"Host": host}).status_code == 200


def test_a_gateway_that_cannot_be_reached_is_named(running: HttpServers) -> None:
    forwarder = running.serve(KeyForwarder("http://127.0.0.1:9", SecretStr(KEY), trust=True).application())
    answer = httpx.get(f"{forwarder}/api/tags")
    assert (answer.status_code, "http://127.0.0.1:9" in answer.json()["error"]) == (502, True)
    assert KEY not in answer.text

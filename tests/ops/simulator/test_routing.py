import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.raw_http import call


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "allow"),
    [
        ("GET", "/nope", 404, b"404 page not found", None),
        ("POST", "/v1/messages/count_tokens", 404, b"404 page not found", None),
        ("GET", "/v1/models/user/name", 404, b"404 page not found", None),
        ("GET", "/api/chat", 405, b"405 method not allowed", "POST"),
        ("POST", "/api/delete", 405, b"405 method not allowed", "DELETE"),
        ("HEAD", "/v1/models", 405, b"", "GET"),
    ],
)
async def test_a_request_without_a_route_gets_the_error_of_the_router(
    server: RunningSimulator, method: str, path: str, status: int, body: bytes, allow: str | None
) -> None:
    reply = await call(server.url, path, method=method)
    assert (reply.status, reply.body, reply.headers.get("allow")) == (status, body, allow)
    assert reply.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api//tags", 307, "/api/tags"),
        ("POST", "/api/./chat", 307, "/api/chat"),
        ("POST", "/v1/x/../chat/completions", 307, "/v1/chat/completions"),
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("POST", "/api/chat/", 307, "/api/chat"),
    ],
)
async def test_an_unclean_path_is_redirected(
    server: RunningSimulator, method: str, path: str, status: int, location: str
) -> None:
    reply = await call(server.url, path, method=method)
    assert (reply.status, reply.headers["location"]) == (status, location)


@pytest.mark.parametrize("path", ["/api/%63hat", "/api%2fchat", "http://elsewhere/api/chat", "/api/chat?x=1"])
async def test_the_decoded_path_is_routed(server: RunningSimulator, path: str) -> None:
    assert (await call(server.url, path, CHAT)).status == 200

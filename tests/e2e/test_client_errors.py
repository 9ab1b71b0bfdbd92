"""What goes wrong, as the official clients tell it: by their own exceptions, in words, before the 200 and after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anthropic
import ollama as ollama_client
import openai
import pytest

from gateway.errors import MESSAGE, Code
from tests.e2e.ledger_view import opened, row_of
from tests.e2e.official_clients import Clients
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
UNKNOWN_KEY = "nz_" + "a" * 42


def by_openai(clients: Clients, **asked: Any) -> list[Any]:
    answer: Any = clients.openai.chat.completions.create(**{"model": MODEL, "messages": HELLO, "stream": True, **asked})
    return list(answer)


def by_anthropic(clients: Clients, **asked: Any) -> list[Any]:
    body = {"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 500, **asked}
    answer: Any = clients.anthropic.messages.create(**body)
    return list(answer)


def by_ollama(clients: Clients, **asked: Any) -> list[Any]:
    answer: Any = clients.ollama.chat(**{"model": MODEL, "messages": HELLO, "stream": True, **asked})
    return list(answer)


CALLS: list[Callable[..., list[Any]]] = [by_openai, by_anthropic, by_ollama]
EXCEPTIONS: dict[int, tuple[type[Exception], type[Exception]]] = {
    400: (openai.BadRequestError, anthropic.BadRequestError),
    401: (openai.AuthenticationError, anthropic.AuthenticationError),
    403: (openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    404: (openai.NotFoundError, anthropic.NotFoundError),
    413: (openai.APIStatusError, anthropic.RequestTooLargeError),
    429: (openai.RateLimitError, anthropic.RateLimitError),
    500: (openai.InternalServerError, anthropic.InternalServerError),
    502: (openai.InternalServerError, anthropic.InternalServerError),
    503: (openai.InternalServerError, anthropic.ServiceUnavailableError),
    504: (openai.InternalServerError, anthropic.GatewayTimeoutError),
}


def check_raised(call: Callable[..., list[Any]], clients: Clients, status: int, says: str, **asked: Any) -> str:
    """The client raises its own exception for this status, in these words; returns the request id."""
    if call is by_ollama:
        with pytest.raises(ollama_client.ResponseError) as native:
            call(clients, **asked)
        assert (native.value.status_code, says in native.value.error) == (status, True), native.value.error
        return clients.ids[-1]
    expected = EXCEPTIONS[status][call is by_anthropic]
    with pytest.raises(expected) as raised:
        call(clients, **asked)
    error: Any = raised.value
    assert (error.status_code, says in error.message) == (status, True), error.message
    request_id: str = error.response.headers["x-request-id"]
    if call is by_openai:
        assert error.request_id == request_id
        assert error.code in (None, error.response.headers["x-gateway-error"])
    else:
        assert error.body["request_id"]
    return request_id


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Clients:
    return Clients.of(stack, stack.new_key("errors"), max_retries=0)


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_key(stack: Stack, call: Callable[..., list[Any]]) -> None:
    wrong = Clients.of(stack, UNKNOWN_KEY, max_retries=0)
    check_raised(call, wrong, 401, MESSAGE[Code.INVALID_API_KEY])


@pytest.mark.parametrize("call", CALLS)
def test_a_model_that_is_not_there(clients: Clients, call: Callable[..., list[Any]]) -> None:
    check_raised(call, clients, 403, MESSAGE[Code.MODEL_NOT_ALLOWED], model="no-such-model")


@pytest.mark.parametrize("call", CALLS)
def test_a_prompt_that_is_too_large(clients: Clients, call: Callable[..., list[Any]]) -> None:
    large = [{"role": "user", "content": "x" * 300_000}]
    check_raised(call, clients, 413, MESSAGE[Code.REQUEST_TOO_LARGE], messages=large)


def test_a_path_that_is_not_offered(clients: Clients) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="not available through the gateway"):
        clients.openai.files.list()
    with pytest.raises(anthropic.PermissionDeniedError, match="not available through the gateway"):
        clients.anthropic.messages.count_tokens(model=MODEL, messages=HELLO)
    with pytest.raises(ollama_client.ResponseError, match="not available through the gateway"):
        clients.ollama.pull(MODEL)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "seen", "says"),
    [
        (400, 400, "context is too long"),
        (404, 404, "model 'x' not found"),
        (500, 500, "unexpectedly stopped"),
        (401, 502, MESSAGE[Code.BACKEND_ERROR]),
        (503, 503, "server busy"),
    ],
)
def test_a_backend_that_refuses(
    stack: Stack,
    ollama: Simulator,
    spare: Simulator,
    clients: Clients,
    call: Callable[..., list[Any]],
    status: int,
    seen: int,
    says: str,
) -> None:
    message = says if status in (400, 404) else None
    for backend in (ollama, spare):
        backend.behave(faults=[{"kind": "status", "status": status, "message": message}])
    row = row_of(stack, check_raised(call, clients, seen, says))
    assert (row["status"], row["outcome"], row["output_tokens"]) == (seen, "upstream_error", 0)


@pytest.mark.parametrize("call", CALLS)
def test_backends_that_hang_up_at_once(
    stack: Stack, ollama: Simulator, spare: Simulator, clients: Clients, call: Callable[..., list[Any]]
) -> None:
    for backend in (ollama, spare):
        backend.behave(faults=[{"kind": "reset"}])
    row = row_of(stack, check_raised(call, clients, 503, MESSAGE[Code.BACKEND_UNAVAILABLE]))
    assert (row["status"], row["code"], row["output_tokens"]) == (503, "backend_unavailable", 0)


def test_more_requests_than_a_minute_has(stack: Stack) -> None:
    rated = Clients.of(stack, stack.new_key("one-a-minute", "--rpm", "1"), max_retries=0)
    by_openai(rated)
    for call in CALLS:
        row = row_of(stack, check_raised(call, rated, 429, MESSAGE[Code.RATE_LIMIT_EXCEEDED]))
        assert (row["status"], row["outcome"], row["code"]) == (429, "denied", "rate_limit_exceeded")


def test_clients_that_retry_by_themselves_ask_once_when_the_budget_is_used_up(stack: Stack) -> None:
    key = stack.new_key("used-up")
    stack.cli("set-budget", "--tenant", "used-up", "--total", "1")
    patient = Clients.of(stack, key)
    assert patient.openai.max_retries == patient.anthropic.max_retries == 2

    def refused() -> bool:
        # The budget is heard of within a second.
        with suppress(openai.RateLimitError):
            by_openai(Clients.of(stack, key, max_retries=0))
            return False
        return True

    eventually(refused)

    async def exhausted() -> int:
        async with opened(stack) as books:
            await books.settled()
            rows = await books.tenant_rows(await books.tenant_id("used-up"))
        return sum(row["code"] == "budget_exhausted" for row in rows)

    before = asyncio.run(exhausted())
    for call in CALLS:
        check_raised(call, patient, 429, MESSAGE[Code.BUDGET_EXHAUSTED])
    assert asyncio.run(exhausted()) == before + len(CALLS)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ["error", "repeat_guard"])
def test_an_answer_that_breaks_off(
    stack: Stack, ollama: Simulator, clients: Clients, call: Callable[..., list[Any]], fault: str
) -> None:
    """The caller got its 200 and some words; then there is an error, and never an end that looks like one."""
    ollama.behave(faults=[{"kind": fault, "after_frames": 4}])
    began = len(clients.ids)
    if call is by_ollama:
        with pytest.raises(ollama_client.ResponseError) as native:
            call(clients)
        assert native.value.error
        assert len(clients.ids) == began + 1
    else:
        expected = anthropic.APIStatusError if call is by_anthropic else openai.APIError
        with pytest.raises(expected) as raised:
            call(clients)
        assert "backend" in str(raised.value)
    (asked,) = eventually(lambda: [each for each in ollama.requests()[-1:] if each["ended_at"]])
    row = row_of(stack, asked["headers"]["x-request-id"])
    assert (row["status"], row["outcome"], row["code"]) == (200, "upstream_error", "backend_error")
    assert 0 < row["output_tokens"] <= asked["output_tokens"]


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_goes_past_its_cap(
    stack: Stack, ollama: Simulator, clients: Clients, call: Callable[..., list[Any]]
) -> None:
    ollama.behave(faults=[{"kind": "over_cap"}])
    asked = {"options": {"num_predict": 9}} if call is by_ollama else {"max_tokens": 9}
    with pytest.raises((ollama_client.ResponseError, openai.APIError, anthropic.APIStatusError)) as raised:
        call(clients, **asked)
    assert "exceeded the output limit" in str(raised.value)
    request_id = ollama.requests()[-1]["headers"]["x-request-id"]
    assert (row_of(stack, request_id)["outcome"], row_of(stack, request_id)["output_tokens"]) == ("cut", 9)

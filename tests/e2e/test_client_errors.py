"""Errors in the official clients: each raises its own exception with our message, before and after status 200."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.errors import MESSAGE, Code
from tests.e2e.ledger_view import audit_row, open_ledger_view
from tests.e2e.official_clients import Clients
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
UNKNOWN_KEY = "nz_" + "a" * 42


def by_openai(clients: Clients, **arguments: Any) -> list[Any]:
    answer: Any = clients.openai.chat.completions.create(
        **{"model": MODEL, "messages": HELLO, "stream": True, **arguments}
    )
    return list(answer)


def by_anthropic(clients: Clients, **arguments: Any) -> list[Any]:
    body = {"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 500, **arguments}
    answer: Any = clients.anthropic.messages.create(**body)
    return list(answer)


def by_ollama(clients: Clients, **arguments: Any) -> list[Any]:
    answer: Any = clients.ollama.chat(**{"model": MODEL, "messages": HELLO, "stream": True, **arguments})
    return list(answer)


CALLERS: list[Callable[..., list[Any]]] = [by_openai, by_anthropic, by_ollama]


def exceptions(status: int) -> tuple[type[Exception], type[Exception]]:
    """What the OpenAI client and the Anthropic client raise for this status."""
    import anthropic
    import openai

    return {
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
    }[status]


def check_raised(call: Callable[..., list[Any]], clients: Clients, status: int, message: str, **arguments: Any) -> str:
    """Checks that the client raises its exception for `status` with `message` in its text. Returns the request id."""
    if call is by_ollama:
        import ollama

        with pytest.raises(ollama.ResponseError) as native:
            call(clients, **arguments)
        assert (native.value.status_code, message in native.value.error) == (status, True), native.value.error
        return clients.ids[-1]
    expected = exceptions(status)[call is by_anthropic]
    with pytest.raises(expected) as raised:
        call(clients, **arguments)
    error: Any = raised.value
    assert (error.status_code, message in error.message) == (status, True), error.message
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


@pytest.mark.parametrize("call", CALLERS)
def test_an_unknown_key_is_an_authentication_error(stack: Stack, call: Callable[..., list[Any]]) -> None:
    unknown = Clients.of(stack, UNKNOWN_KEY, max_retries=0)
    check_raised(call, unknown, 401, MESSAGE[Code.INVALID_API_KEY])


@pytest.mark.parametrize("call", CALLERS)
def test_an_unknown_model_is_a_permission_error(clients: Clients, call: Callable[..., list[Any]]) -> None:
    check_raised(call, clients, 403, MESSAGE[Code.MODEL_NOT_ALLOWED], model="no-such-model")


@pytest.mark.parametrize("call", CALLERS)
def test_a_large_prompt_is_a_request_too_large_error(clients: Clients, call: Callable[..., list[Any]]) -> None:
    large = [{"role": "user", "content": "x" * 9_000_000}]
    check_raised(call, clients, 413, "this key may send at most 8388608", messages=large)


def test_a_blocked_path_is_a_permission_error(clients: Clients) -> None:
    import anthropic
    import ollama
    import openai

    with pytest.raises(openai.PermissionDeniedError, match="not available through the gateway"):
        clients.openai.files.list()
    with pytest.raises(anthropic.PermissionDeniedError, match="not available through the gateway"):
        clients.anthropic.messages.batches.list()
    with pytest.raises(ollama.ResponseError, match="none can be pulled through it"):
        clients.ollama.pull(MODEL)


@pytest.mark.parametrize("call", CALLERS)
@pytest.mark.parametrize(
    ("status", "client_status", "message"),
    [
        (400, 400, "context is too long"),
        (400, 400, "gemma3:270m does not support tools"),
        (404, 403, MESSAGE[Code.MODEL_NOT_ALLOWED]),
        (500, 500, "unexpectedly stopped"),
        (401, 502, MESSAGE[Code.BACKEND_ERROR]),
        (503, 503, "the server is restarting"),
    ],
)
def test_an_error_of_the_backend_is_reported_with_its_message_or_ours(
    stack: Stack,
    ollama: Simulator,
    spare: Simulator,
    clients: Clients,
    call: Callable[..., list[Any]],
    status: int,
    client_status: int,
    message: str,
) -> None:
    backend_message = message if status in (400, 404, 503) else None
    for backend in (ollama, spare):
        backend.behave(faults=[{"kind": "status", "status": status, "message": backend_message}])
    row = audit_row(stack, check_raised(call, clients, client_status, message))
    assert (row["status"], row["outcome"], row["output_tokens"]) == (client_status, "upstream_error", 0)


@pytest.mark.parametrize("call", CALLERS)
def test_a_prompt_that_the_backend_refuses_as_too_long_has_one_code(
    stack: Stack, ollama: Simulator, spare: Simulator, clients: Clients, call: Callable[..., list[Any]]
) -> None:
    for backend in (ollama, spare):
        message = "request (3010 tokens) exceeds the available context size (2048 tokens)"
        backend.behave(faults=[{"kind": "status", "status": 400, "message": message}])
    request_id = check_raised(call, clients, 400, "the context of this model")
    row = audit_row(stack, request_id)
    assert (row["status"], row["code"], row["outcome"]) == (400, "context_length_exceeded", "upstream_error")


@pytest.mark.parametrize("call", CALLERS)
def test_backends_that_reset_every_connection_are_reported_as_unavailable(
    stack: Stack, ollama: Simulator, spare: Simulator, clients: Clients, call: Callable[..., list[Any]]
) -> None:
    for backend in (ollama, spare):
        backend.behave(faults=[{"kind": "reset"}])
    row = audit_row(stack, check_raised(call, clients, 503, MESSAGE[Code.BACKEND_UNAVAILABLE]))
    assert (row["status"], row["code"], row["output_tokens"]) == (503, "backend_unavailable", 0)


def test_a_request_over_the_rate_limit_is_a_rate_limit_error(stack: Stack) -> None:
    limited = Clients.of(stack, stack.new_key("one-a-minute", "--rpm", "1"), max_retries=0)
    by_openai(limited)
    for call in CALLERS:
        row = audit_row(stack, check_raised(call, limited, 429, MESSAGE[Code.RATE_LIMIT_EXCEEDED]))
        assert (row["status"], row["outcome"], row["code"]) == (429, "denied", "rate_limit_exceeded")


def test_retrying_clients_send_one_request_when_the_budget_is_exhausted(stack: Stack) -> None:
    key = stack.new_key("budget-exhausted")
    stack.cli("set-budget", "--tenant", "budget-exhausted", "--total", "1")
    retrying = Clients.of(stack, key)
    assert retrying.openai.max_retries == retrying.anthropic.max_retries == 2

    def refused() -> bool:
        import openai

        # The workers apply a changed budget within a second.
        with suppress(openai.RateLimitError):
            by_openai(Clients.of(stack, key, max_retries=0))
            return False
        return True

    eventually(refused)

    async def exhausted() -> int:
        async with open_ledger_view(stack) as ledger_view:
            await ledger_view.wait_until_settled()
            rows = await ledger_view.tenant_rows(await ledger_view.tenant_id("budget-exhausted"))
        return sum(row["code"] == "budget_exhausted" for row in rows)

    before = asyncio.run(exhausted())
    for call in CALLERS:
        check_raised(call, retrying, 429, "the token budget in total has 1 tokens left")
    assert asyncio.run(exhausted()) == before + len(CALLERS)


@pytest.mark.parametrize("call", CALLERS)
@pytest.mark.parametrize("fault", ["error", "repeat_guard"])
def test_an_answer_that_breaks_off_raises_an_error_and_never_ends_normally(
    stack: Stack, ollama: Simulator, clients: Clients, call: Callable[..., list[Any]], fault: str
) -> None:
    import anthropic
    import ollama as ollama_client
    import openai

    ollama.behave(faults=[{"kind": fault, "after_frames": 4}])
    ids_before = len(clients.ids)
    if call is by_ollama:
        with pytest.raises(ollama_client.ResponseError) as native:
            call(clients)
        assert native.value.error
        assert len(clients.ids) == ids_before + 1
    else:
        expected = anthropic.APIStatusError if call is by_anthropic else openai.APIError
        with pytest.raises(expected) as raised:
            call(clients)
        assert "backend" in str(raised.value)
    (attempt,) = eventually(lambda: [each for each in ollama.requests()[-1:] if each["ended_at"]])
    row = audit_row(stack, attempt["headers"]["x-request-id"])
    assert (row["status"], row["outcome"], row["code"]) == (200, "upstream_error", "backend_error")
    assert 0 < row["output_tokens"] <= attempt["output_tokens"]


@pytest.mark.parametrize("call", CALLERS)
def test_an_answer_that_exceeds_its_cap_is_cut_with_an_error(
    stack: Stack, ollama: Simulator, clients: Clients, call: Callable[..., list[Any]]
) -> None:
    import anthropic
    import ollama as ollama_client
    import openai

    ollama.behave(faults=[{"kind": "over_cap"}])
    arguments = {"options": {"num_predict": 9}} if call is by_ollama else {"max_tokens": 9}
    with pytest.raises((ollama_client.ResponseError, openai.APIError, anthropic.APIStatusError)) as raised:
        call(clients, **arguments)
    assert "exceeded the output limit" in str(raised.value)
    request_id = ollama.requests()[-1]["headers"]["x-request-id"]
    assert (audit_row(stack, request_id)["outcome"], audit_row(stack, request_id)["output_tokens"]) == ("cut", 9)

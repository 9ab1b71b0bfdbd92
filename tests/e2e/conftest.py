"""The stacks that several files of end-to-end tests share. tests/conftest.py lists the files of each.

`stack` serves most of them: two workers per service, TLS, the playground, and two backends. A stack stops when its
worker has run its end-to-end tests, because an idle stack takes a twentieth of a core.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from ops.embedded import logfile
from ops.embedded.state import open_state
from tests.e2e.one_worker import REQUEST_ID_HEADER, OneWorker
from tests.e2e.one_worker import one_worker as running_one_worker
from tests.e2e.queue_stack import QueueStack
from tests.e2e.queue_stack import queue_stack as running_queue_stack
from tests.e2e.retry_after import CODES, repeated_request, retry_after_refusal
from tests.e2e.sockets import Answer, send_slow_body
from tests.e2e.stack import SLOTS, Simulator, Stack, set_env, simulator, up
from tests.e2e.trial import Trial, running_trial
from tests.ports import free_port

# More than the failures that all tests together cause from their shared address within a minute.
AUTH_FAILURES_MAX = 60
ALLOWED_ORIGIN = "https://chat.example"
# A third of it, in which an idle stream is renewed, is longer than the second in which progress is stored.
TRIAL_LEASE_S = 6
BACKEND_TOKEN = "backend-token-of-the-tests"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the last log lines of the services to the report of a failed test."""
    report = yield
    if report.failed:
        stacks = [each for each in getattr(item, "funcargs", {}).values() if isinstance(each, Stack)]
        for log in (log for each in stacks for log in sorted((each.state_dir / "logs").glob("*.log"))):
            report.sections.append((f"{log.parent.parent.parent.name} {log.name}", "\n".join(logfile.tail(log))))
    return report


@pytest.fixture(scope="package")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(BACKEND_TOKEN)
    with simulator("--auth-token-file", str(token)) as running:
        yield running


@pytest.fixture(scope="package")
def spare() -> Iterator[Simulator]:
    """The second backend in priority order. It requires no token."""
    with simulator() as running:
        yield running


@contextmanager
def stack_over(
    ollama: Simulator,
    spare: Simulator,
    state_dir: Path,
    run: Callable[..., AbstractContextManager[Stack]] = up,
    /,
    **settings: str,
) -> Iterator[Stack]:
    """Runs a stack whose first backend is `ollama`, with these settings besides those of all tests."""
    backends = [
        {"name": "sim", "base_url": ollama.url, "auth_token": BACKEND_TOKEN, "slots": SLOTS},
        {"name": "spare", "base_url": spare.url, "slots": SLOTS},
    ]
    with open_state(state_dir) as state:
        state.env_file.touch(mode=0o600)
    set_env(state_dir, OLLAMA_BACKENDS=json.dumps(backends), MODEL_DISCOVERY_REFRESH_S="1", DEFAULT_RPM="10000")
    set_env(state_dir, DEFAULT_TPM="10000000", REDIS_KEY_CACHE_TTL_S="600", GATEWAY_REQUEST_ID_HEADER=REQUEST_ID_HEADER)
    set_env(state_dir, GATEWAY_ALLOWED_ORIGINS=ALLOWED_ORIGIN, PLAYGROUND_ENABLED="true")
    # The default depends on the cores.
    set_env(state_dir, PREFERRED_AUTHZ_WORKERS="1")
    set_env(state_dir, AUTH_FAILURE_RATE_LIMIT_PER_IP_PER_MIN=str(AUTH_FAILURES_MAX))
    set_env(state_dir, **settings)
    addresses = ("--listen", f"127.0.0.1:{free_port()}", "--tls", f"127.0.0.1:{free_port()}")
    with run(state_dir, *addresses, "--workers", "2") as running:
        yield running


@pytest.fixture(scope="package")
def stack(ollama: Simulator, spare: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_over(ollama, spare, tmp_path_factory.mktemp("stack") / "state") as running:
        yield running


@pytest.fixture(scope="package")
def key(stack: Stack) -> str:
    return stack.new_key("clients")


@pytest.fixture(scope="package")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A stack whose processes the tests kill."""
    state_dir = tmp_path_factory.mktemp("trial") / "state"
    with simulator() as upstream, running_trial(state_dir, upstream, HOLD_LEASE_S=str(TRIAL_LEASE_S)) as running:
        yield running


@pytest.fixture(scope="package")
def queue_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueStack]:
    with running_queue_stack(tmp_path_factory.mktemp("queue")) as running:
        yield running


@pytest.fixture(scope="package")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneWorker]:
    with running_one_worker(tmp_path_factory.mktemp("one-worker")) as running:
        yield running


@pytest.fixture(scope="package")
def retries(one_worker: OneWorker) -> Iterator[dict[str, Future[tuple[httpx.Response, httpx.Response]]]]:
    """One client per error code that is refused and retries, up to a minute later, while other tests run."""
    requests = {code: repeated_request(one_worker.stack, code) for code in CODES}
    with ThreadPoolExecutor(len(CODES)) as clients:
        yield {code: clients.submit(retry_after_refusal, send) for code, send in requests.items()}


@pytest.fixture(scope="package")
def slow_key(one_worker: OneWorker) -> str:
    return one_worker.stack.new_key("slow")


@pytest.fixture(scope="package")
def slow_body(one_worker: OneWorker, slow_key: str) -> Iterator[Future[Answer]]:
    """A request whose body takes more than a minute to arrive, while other tests run."""
    with ThreadPoolExecutor(1) as client:
        yield client.submit(send_slow_body, one_worker.stack.url, slow_key)


@pytest.fixture(autouse=True)
def _reset_backends(request: pytest.FixtureRequest) -> Iterator[None]:
    used = sorted({"ollama", "spare"} & set(request.fixturenames))
    for name in used:
        # The simulator keeps a limited number of records, so tests that count them start with none.
        request.getfixturevalue(name).clear_records()
    yield
    for name in used:
        request.getfixturevalue(name).behave()

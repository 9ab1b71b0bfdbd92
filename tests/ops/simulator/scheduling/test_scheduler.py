import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from ops.simulator.models.library import Library, Model
from ops.simulator.scheduling.runner import LaunchOptions, RunnerKilled
from ops.simulator.scheduling.scheduler import Limits, Scheduler, ServerBusy

OPTIONS = LaunchOptions(4096)
LONG_S = 3600.0


class _Server:
    """A scheduler with a clock and limits that the test sets."""

    def __init__(self, *, num_parallel: int = 1, max_queue: int = 512, max_loaded_models: int = 0) -> None:
        self.now = 1000.0
        self.limits = Limits(num_parallel, max_queue, max_loaded_models, load_s=0)
        self.scheduler = Scheduler(lambda: self.now, lambda: self.limits)
        self._library = Library(lambda: 0.0)
        self._tasks: list[asyncio.Task[None]] = []

    def model(self, name: str = "llama3.2") -> Model:
        return self._library.add(name)

    def loading_takes(self, seconds: float) -> None:
        limits = self.limits
        self.limits = Limits(limits.num_parallel, limits.max_queue, limits.max_loaded_models, seconds)

    def start(
        self, model: Model, *, options: LaunchOptions = OPTIONS, keep_alive_s: float | None = None
    ) -> tuple[asyncio.Task[None], Callable[[], None]]:
        """A task that uses the model until the returned function is called."""
        done = asyncio.Event()

        async def use() -> None:
            async with self.scheduler.use(model, options, keep_alive_s):
                await done.wait()

        return asyncio.create_task(use()), done.set

    async def use(self, model: Model, *, options: LaunchOptions = OPTIONS, keep_alive_s: float | None = None) -> None:
        async with self.scheduler.use(model, options, keep_alive_s):
            pass

    def loaded(self) -> list[str]:
        return [runner.model.name.model for runner in self.scheduler.runners()]


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_model_stays_loaded_for_as_long_as_its_last_keep_alive() -> None:
    server = _Server()
    model = server.model()
    await server.use(model, keep_alive_s=60)
    await server.use(model)
    server.now += 59
    assert server.loaded() == ["llama3.2"]
    server.now += 1
    assert server.loaded() == []
    await server.use(model)
    server.now += 299
    assert server.loaded() == ["llama3.2"]
    await server.use(model, keep_alive_s=0)
    assert server.loaded() == []
    await server.use(model, keep_alive_s=-1)
    server.now += 10**9
    assert server.loaded() == ["llama3.2"]


async def test_copies_of_a_model_share_its_runner() -> None:
    server = _Server()
    model = server.model()
    copy = server._library.add("alias", model)
    await server.use(model)
    await server.use(copy)
    assert server.loaded() == ["llama3.2"]


async def test_a_load_is_abandoned_with_its_request_and_the_next_one_starts_it_again() -> None:
    server = _Server()
    server.loading_takes(LONG_S)
    first, _ = server.start(server.model())
    second, leave = server.start(server.model())
    await _settle()
    [runner] = server.scheduler.runners()
    assert (runner.is_loading, server.scheduler.pending) == (True, 1)
    server.loading_takes(0)
    first.cancel()
    await _settle()
    [runner] = server.scheduler.runners()
    assert (runner.is_loading, runner.references, server.scheduler.pending) == (False, 1, 0)
    leave()
    await second


async def test_a_request_beyond_the_pending_ones_is_refused_only_while_a_model_is_loaded() -> None:
    server = _Server(max_queue=2)
    await server.use(server.model())
    server.loading_takes(LONG_S)
    cold = [server.start(server.model("qwen3")) for _ in range(3)]
    await _settle()
    assert server.scheduler.pending == 2
    with pytest.raises(ServerBusy):
        await server.use(server.model("qwen3"))
    with pytest.raises(ServerBusy):
        await server.use(server.model("gemma3"))
    await server.use(server.model())
    for task, _ in cold:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert (server.scheduler.pending, server.loaded()) == (0, ["llama3.2"])


async def test_other_launch_options_load_the_model_again_after_its_last_request() -> None:
    server = _Server()
    running, leave = server.start(server.model())
    await _settle()
    reloading, leave_reloaded = server.start(server.model(), options=LaunchOptions(8192))
    late, leave_late = server.start(server.model())
    await _settle()
    [runner] = server.scheduler.runners()
    # The loader waits for the running requests, and further ones for the loaded model still use it.
    assert (runner.options.num_ctx, runner.references) == (4096, 2)
    leave()
    await running
    leave_late()
    await late
    await _settle()
    [runner] = server.scheduler.runners()
    assert (runner.options.num_ctx, runner.references) == (8192, 1)
    leave_reloaded()
    await reloading


async def test_another_model_is_unloaded_first_when_too_many_are_loaded() -> None:
    server = _Server(max_loaded_models=2)
    busy, leave = server.start(server.model("busy"), keep_alive_s=1)
    await server.use(server.model("long"), keep_alive_s=900)
    await _settle()
    await server.use(server.model("third"))
    assert server.loaded() == ["busy", "third"]
    waiting, leave_fourth = server.start(server.model("fourth"), keep_alive_s=900)
    await _settle()
    assert server.loaded() == ["busy", "fourth"]
    blocked, leave_fifth = server.start(server.model("fifth"))
    await _settle()
    assert (server.loaded(), blocked.done()) == (["busy", "fourth"], False)
    leave()
    await busy
    await _settle()
    assert server.loaded() == ["fourth", "fifth"]
    for task, finish in ((waiting, leave_fourth), (blocked, leave_fifth)):
        finish()
        await task


async def test_an_unload_waits_for_the_requests_that_use_the_model() -> None:
    server = _Server()
    running, leave = server.start(server.model())
    await _settle()
    server.scheduler.unload(server.model())
    assert server.loaded() == ["llama3.2"]
    leave()
    await running
    assert server.loaded() == []


async def test_a_killed_runner_ends_its_requests_and_the_next_one_loads_the_model() -> None:
    server = _Server()
    async with server.scheduler.use(server.model(), OPTIONS, None) as runner:
        sleeping = asyncio.create_task(runner.sleep(LONG_S))
        await _settle()
        server.scheduler.kill()
        with pytest.raises(RunnerKilled):
            await sleeping
    assert server.loaded() == []
    async with server.scheduler.use(server.model(), OPTIONS, None) as other:
        assert other is not runner


async def test_an_embedding_model_has_one_slot() -> None:
    server = _Server(num_parallel=4)
    for name, slots in (("nomic-embed-text", 1), ("llama3.2", 4)):
        async with server.scheduler.use(server.model(name), OPTIONS, None) as runner:
            assert runner.slot_limit() == slots

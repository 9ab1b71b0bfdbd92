"""Reads everything that `top` shows, as one document."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.cli.output import iso
from ops.cli.queue import queue_document
from ops.cli.reserved import reserved_tokens
from ops.cli.status import backend_states
from ops.cli.top.document import document
from ops.cli.top.rates import Scrape
from ops.cli.top.scrape import scrape
from ops.cli.usage import budget_document
from ops.database.reports import Filter, Reports

T = TypeVar("T")

# Denials are rare and short, so they are shown for longer than one interval.
DENIALS_WINDOW_S = 60.0


class Snapshots:
    """Takes one snapshot after the other; the rates are those since the previous one.

    `addresses` returns the listeners of the metrics; it is called each time, because workers come and go.
    """

    def __init__(self, settings: Settings, database: Database, addresses: Callable[[], list[str]]) -> None:
        self._settings = settings
        self._database = database
        self._addresses = addresses
        self._scrapes: deque[Scrape] = deque()

    async def begin(self) -> None:
        """Takes the scrape that the first snapshot is compared with."""
        self._scrapes.append(await scrape(self._addresses()))

    async def take(self) -> dict[str, Any]:
        """The document of `top --json`. Parts are None while the store that has them is unavailable."""
        later = await scrape(self._addresses())
        while len(self._scrapes) > 1 and later.taken_s - self._scrapes[0].taken_s > DENIALS_WINDOW_S:
            self._scrapes.popleft()
        first, previous = self._scrapes[0], self._scrapes[-1]
        self._scrapes.append(later)
        unavailable: list[str] = []
        queue = await _or_none(self._queue, unavailable) if self._settings.has_queue else None
        budgets = await _or_none(self._budgets, unavailable)
        return document(
            time=iso(datetime.now(UTC)) or "",
            scrapes=(first, previous, later),
            queue=queue,
            backends=await backend_states(self._settings),
            budgets=budgets,
            unavailable=list(dict.fromkeys(unavailable)),
        )

    async def _queue(self) -> dict[str, Any]:
        return await queue_document(self._settings, self._database)

    async def _budgets(self) -> list[dict[str, Any]]:
        budgets = await Reports(self._database).budgets(Filter(), datetime.now(UTC))
        reserved = await reserved_tokens(self._settings, self._database, budgets)
        return [budget_document(budget, reserved) for budget in budgets]


async def _or_none(read: Callable[[], Awaitable[T]], unavailable: list[str]) -> T | None:
    try:
        return await read()
    except StoreUnavailable as error:
        unavailable.append(str(error))
        return None

from __future__ import annotations

import asyncio

import pytest

from gateway.catalog.store import CatalogStore
from gateway.errors import StoreUnavailable
from gateway.service.lifecycle import cancel
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Outcome
from meter.missing_models import MissingModels
from tests.polling import eventually_async
from tests.row_builders import entry


class Store(CatalogStore):
    """Records the reports, after `failures` failures."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(connect(Settings()), 1.0)
        self.reports: list[str] = []
        self._failures = failures

    async def report_missing(self, backend: str) -> None:
        if self._failures:
            self._failures -= 1
            raise StoreUnavailable("no Redis")
        self.reports.append(backend)


@pytest.mark.parametrize("failures", [0, 2])
async def test_a_backend_is_reported_once_for_its_rows_and_no_denial_reports_any(failures: int) -> None:
    store = Store(failures)
    missing = MissingModels(store)
    running = asyncio.create_task(missing.run())
    missing.note(
        [
            entry("a"),
            entry("b", backend=None, code="model_not_allowed", outcome=Outcome.DENIED),
            entry("c", backend="near", code="model_not_allowed", outcome=Outcome.UPSTREAM_ERROR),
            entry("d", backend="near", code="model_not_allowed", outcome=Outcome.UPSTREAM_ERROR),
            entry("e", backend="far", code="backend_error", outcome=Outcome.UPSTREAM_ERROR),
        ]
    )
    await eventually_async(lambda: store.reports == ["near"])
    missing.note([entry("f", backend="far", code="model_not_allowed", outcome=Outcome.UPSTREAM_ERROR)])
    await eventually_async(lambda: store.reports == ["near", "far"])
    await cancel([running])

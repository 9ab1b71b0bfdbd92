"""The catalog that control published, for commands that need to know which models the backends host."""

from __future__ import annotations

import asyncio

from gateway.catalog.snapshot import Catalog
from gateway.catalog.store import CatalogStore
from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.stores.redis import connect


def read_catalog(settings: Settings) -> Catalog | None:
    """The published catalog, None when control has published none. Raises StoreUnavailable."""
    return asyncio.run(fetch_catalog(settings))


def known_catalog(settings: Settings) -> Catalog | None:
    """The published catalog, None when there is none or Redis does not answer."""
    try:
        return read_catalog(settings)
    except StoreUnavailable:
        return None


async def fetch_catalog(settings: Settings) -> Catalog | None:
    """As `read_catalog`, within a running event loop."""
    redis = connect(settings)
    try:
        snapshot = await CatalogStore(redis, settings.redis_timeout_s).fetch(unless_version="")
    finally:
        await redis.aclose()
    return snapshot.catalog if snapshot and snapshot.catalog and snapshot.catalog.backends else None

"""The catalog that control published, for commands that need to know which models the backends host."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from difflib import get_close_matches

import rich_click as click

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


def warn_of_unhosted(settings: Settings, models: Collection[str]) -> None:
    """Prints a note on stderr for each of these models (canonical names) that no backend hosts now.

    Without a catalog nothing is known, so nothing is printed.
    """
    catalog = known_catalog(settings) if models else None
    for model in models if catalog else ():
        if catalog and model not in catalog.models:
            near = get_close_matches(model, catalog.models, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `list-models` shows the models of the backends"
            click.echo(f"note: no backend has {model} now{hint}", err=True)

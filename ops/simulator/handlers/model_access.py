"""Finds and loads the model of a request."""

from __future__ import annotations

import asyncio

from ops.simulator.dialects.errors import ApiError
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.models import names
from ops.simulator.models.library import Model

_SIGNIN_URL = "https://ollama.com/connect?name=gpu-host-1&key=c3NoLWVkMjU1MTkgQUFBQQ"


def find_model(
    exchange: Exchange,
    name: str,
    *,
    required: bool = False,
    ignore_case: bool = True,
    not_found_message: str = "model '{}' not found",
) -> Model:
    """The installed model that any spelling of its name means.

    Raises ApiError as Ollama does for an unknown name, an invalid name, and a name whose request would go to Ollama's
    cloud. With `required` an empty name has its own error, as on `/api/chat`.
    """
    if not name and required:
        raise ApiError(400, "model is required")
    base, source = split_source(name)
    if source == "cloud":
        raise _cloud_error(exchange.behaviour.cloud)
    model = exchange.library.find(base, ignore_case=ignore_case)
    if model is None:
        raise ApiError(404, not_found_message.format(name))
    return model


def split_source(name: str) -> tuple[str, names.Source]:
    """`names.split_source` with its error as ApiError."""
    try:
        return names.split_source(name)
    except names.ConflictingSource:
        raise ApiError(400, "invalid model name") from None


async def load_model(exchange: Exchange, model: Model, keep_alive_s: float | None, num_ctx: int) -> None:
    """Loads the model unless it is loaded with this context length, then evaluates the prompt for `first_byte_s`.

    A server loads one model at a time.
    """
    async with exchange.loading:
        entry = next((e for e in exchange.library.in_memory() if e.model.name.key == model.name.key), None)
        if entry is None or entry.context_length != num_ctx:
            await asyncio.sleep(exchange.behaviour.load_s)
        exchange.library.touch(model, keep_alive_s or None, num_ctx)
    await asyncio.sleep(exchange.behaviour.first_byte_s)


def _cloud_error(state: str) -> ApiError:
    if state == "disabled":
        return ApiError(403, "ollama cloud is disabled: remote model is unavailable", always_native=True)
    return ApiError(401, "unauthorized", always_native=True, fields={"signin_url": _SIGNIN_URL})

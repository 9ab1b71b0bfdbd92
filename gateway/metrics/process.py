"""The process itself: its version, its resources and the lag of its event loop."""

from __future__ import annotations

import asyncio

from prometheus_client import Gauge, ProcessCollector

from gateway import __version__
from gateway.metrics.registry import LOOP_BUCKETS_S, REGISTRY, Histogram

# How often the lag is measured.
LAG_INTERVAL_S = 0.25

ProcessCollector(registry=REGISTRY)
BUILD_INFO = Gauge("neuronetz_build_info", "Always 1; the labels name the release.", ("version",), registry=REGISTRY)
BUILD_INFO.labels(__version__).set(1)
EVENT_LOOP_LAG_SECONDS = Histogram(
    "neuronetz_event_loop_lag_seconds",
    "How much later than due the event loop wakes a sleeping task.",
    LOOP_BUCKETS_S,
)


async def measure_event_loop_lag() -> None:
    """Observes the lag of the running event loop every LAG_INTERVAL_S, until cancelled."""
    loop, lag = asyncio.get_running_loop(), EVENT_LOOP_LAG_SECONDS.labels()
    while True:
        due_s = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        lag.observe(max(loop.time() - due_s, 0.0))

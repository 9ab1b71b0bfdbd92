"""The stores: the only home of the PostgreSQL and Redis drivers. Values in, values out; no rule is decided here."""

from __future__ import annotations

import sys

# redis-py imports OpenTelemetry's SDK where it is installed, for metrics that the gateway does not use. That costs each
# process 3 MB. With None for its module the import fails, and redis-py does without it.
if "opentelemetry" not in sys.modules:
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]
    try:
        import redis.asyncio  # noqa: F401 (the next import finds it)
    finally:
        del sys.modules["opentelemetry"]

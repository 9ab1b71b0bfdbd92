"""Without an endpoint no service imports opentelemetry."""

import subprocess
import sys

SCRIPT = """
import asyncio, sys
import authz.__main__, meter.__main__, ops.control.__main__
from gateway.settings import Settings
from gateway.tracing.exporting import exporting

async def main():
    async with exporting(Settings(_env_file=None), "authz", "a") as exporter:
        assert exporter is None

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_opentelemetry_is_not_imported_without_an_endpoint() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={})
    assert found.stdout.strip() == "[]"

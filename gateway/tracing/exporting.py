"""Starts and stops the export of a process, without an import of opentelemetry when it is disabled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.tracing.exporter import OtlpExporter


@asynccontextmanager
async def exporting(settings: Settings, process: str, instance: str) -> AsyncIterator[OtlpExporter | None]:
    """The exporter of a process until the context ends, None without OTEL_EXPORTER_OTLP_ENDPOINT.

    `process` is authz or meter, and `instance` distinguishes its workers.
    """
    if settings.otel_exporter_otlp_endpoint is None:
        yield None
        return
    from gateway.tracing.exporter import OtlpExporter

    exporter = OtlpExporter(settings, process, instance)
    try:
        yield exporter
    finally:
        await exporter.aclose()

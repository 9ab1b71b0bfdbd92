"""Spans and OpenTelemetry. Spans are built from plain values, and only `exporter.py` imports opentelemetry."""

"""Sending spans to a collector: OpenTelemetry's SDK, set up by its own OTEL_* variables."""

from __future__ import annotations

import os
import threading
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

# A process that is killed loses what it has not sent yet: a second's worth, not five.
_DELAY_MS: Final = 1000
_DELAY: Final = "OTEL_BSP_SCHEDULE_DELAY"
_providers: list[TracerProvider] = []


def export(service: str) -> None:
    """Make this process send its spans, in batches, from a thread."""
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    # Its own hook at exit would wait for a collector that is away for half a minute.
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    delay = None if os.environ.get(_DELAY) else _DELAY_MS
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay))
    trace.set_tracer_provider(provider)
    _providers.append(provider)


def finish(seconds: float) -> None:
    """Send what is left and end; whatever takes longer is left behind."""
    for provider in _providers:
        # A thread, since the SDK's own limit does not hold while a request is under way.
        thread = threading.Thread(target=provider.shutdown, name="otlp-end", daemon=True)
        thread.start()
        thread.join(seconds)
    _providers.clear()

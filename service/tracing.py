"""Traces: one from a request through the ledger and the bell into the stages of a worker.

Off unless the standard OTEL_* variables name a collector, and then spans leave the process from a
thread of their own: a collector that is slow or away costs spans, never work. Ids are there either
way: what a caller sends as `traceparent` is kept, logged and answered, and without one an id is made.

A context travels as the text of W3C's `traceparent` header: in the job's row, so that it outlives
any message, and in the headers of the ring.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER: Final = "traceparent"
MAX_HEADER_CHARS: Final = 64
FLUSH_S: Final = 2.0
SERVER: Final = SpanKind.SERVER
PRODUCER: Final = SpanKind.PRODUCER
CONSUMER: Final = SpanKind.CONSUMER
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_w3c: Final = TraceContextTextMapPropagator()
_tracer: Final = trace.get_tracer("arrowquant")
Attributes = Mapping[str, str | int | float | bool]


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a collector and does not turn traces off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp") or "otlp"
    return exporter == "otlp" and any(environment.get(name) for name in _ENDPOINTS)


def start(service: str) -> None:
    """Begin to export, if that is wanted. In a process that forks: call it after the fork.

    service  its name, where OTEL_SERVICE_NAME gives no other
    """
    if wanted():
        from service.otlp import export

        export(service)


def stop() -> None:
    """Send what is left, for two seconds at most."""
    if wanted():
        from service.otlp import finish

        finish(FLUSH_S)


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
    links: Sequence[str] = (),
) -> Iterator[Span]:
    """A span around a block, current inside it. An exception marks it as failed.

    parent  a traceparent from elsewhere; without one, the current span
    links   traceparents of what else led to this
    """
    above = context_of(parent) if parent else otel_context.get_current()
    if not _ids(above).is_valid:
        above = trace.set_span_in_context(NonRecordingSpan(_new_ids()), Context())
        # The SDK would make this id's parent a span that nobody ever sent.
        above = Context() if wanted() else above
    found = [Link(ids) for text in links if (ids := _ids(context_of(text))).is_valid]
    made = _tracer.start_span(
        name, above, kind, dict(attributes or {}), found, record_exception=False
    )
    with trace.use_span(made, end_on_exit=True, record_exception=False):
        yield made


def finished(name: str, start_ns: int, end_ns: int, attributes: Attributes) -> None:
    """A span below the current one that is over already."""
    made = _tracer.start_span(name, attributes=dict(attributes), start_time=start_ns)
    made.end(end_ns)


def failed(made: Span, code: str) -> None:
    """Mark a span that ended in an error with a name."""
    made.set_attribute("error.type", code)
    made.set_status(StatusCode.ERROR, code)


def traceparent() -> str | None:
    """The current context as text, to be handed on."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier.get(HEADER)


def trace_id() -> str | None:
    """The id of the current trace: 32 hexadecimal digits."""
    return id_of(traceparent())


def id_of(text: str | None) -> str | None:
    """The trace's id in a traceparent."""
    ids = _ids(context_of(text)) if text else SpanContext(0, 0, is_remote=False)
    return format(ids.trace_id, "032x") if ids.is_valid else None


def context_of(text: str | None) -> Context:
    """The context that a traceparent names; an empty one if it is not one."""
    if not text or len(text) > MAX_HEADER_CHARS:
        return Context()
    return _w3c.extract({HEADER: text}, Context())


def _ids(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _new_ids() -> SpanContext:
    return SpanContext(
        secrets.randbits(128) | 1,
        secrets.randbits(64) | 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def add_ids(_logger: Any, _method: str, event: Any) -> Any:
    """A log processor: every line says which trace it belongs to."""
    if "trace_id" not in event and (found := trace_id()) is not None:
        event["trace_id"] = found
    return event

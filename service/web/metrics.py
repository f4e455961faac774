"""What Prometheus sees of the API: its own requests, and the ledger's figures.

Every label has few values: a path is its route's template, and one that no route knows is
`unmatched`, so that a scanner cannot fill the memory of whoever stores the series.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.errors import ArrowQuantError
from service.domain.figures import Figures, FigureSource
from service.domain.job import PRIORITIES, JobState

UNMATCHED: Final = "unmatched"
CACHE_S: Final = 5.0
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_NAMES: Final = {number: name for name, number in PRIORITIES.items()}


class Metrics:
    """One registry for each application, so that two of them in a process count apart."""

    def __init__(self, open_streams: Callable[[], int] = lambda: 0) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.latency = Histogram(
            "arrowquant_http_request_duration_seconds",
            "Time from a request to the beginning of its answer.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "arrowquant_http_requests_in_flight",
            "Requests that are being answered, open streams among them.",
            registry=self.registry,
        )
        streams = Gauge(
            "arrowquant_event_streams", "Open streams of events.", registry=self.registry
        )
        streams.set_function(open_streams)

        self._ledger: LedgerCollector | None = None

    def watch(self, source: FigureSource) -> None:
        """Show the ledger's figures too, of this source from now on."""
        if self._ledger is not None:
            self.registry.unregister(self._ledger)
        self._ledger = LedgerCollector(source)
        self.registry.register(self._ledger)

    def figures(self) -> Figures | None:
        """The ledger's, as last asked for; None while it does not answer."""
        return self._ledger.figures() if self._ledger is not None else None


@contextmanager
def serving(metrics: Metrics, host: str, port: int | None) -> Iterator[None]:
    """Serve the metrics on a port of their own, if there is one."""
    if port is None:
        yield
        return
    server, thread = start_http_server(port, host, metrics.registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Measured:
    """Counts requests and takes their time; the outermost middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, seen = time.monotonic(), False

        async def sending(message: Message) -> None:
            nonlocal seen
            if message["type"] == "http.response.start" and not seen:
                seen = True
                self._observe(scope, str(message["status"]), time.monotonic() - started)
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, sending)
            finally:
                if not seen:  # the client left, or nothing could be answered
                    self._observe(scope, "none", time.monotonic() - started)

    def _observe(self, scope: Scope, status: str, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.latency.labels(method, route_of(scope), status).observe(seconds)


def route_of(scope: Scope) -> str:
    """The template of the route that took a request."""
    path = getattr(scope.get("route"), "path", None)
    return str(path) if path else UNMATCHED


class LedgerCollector(Collector):
    """Figures as gauges, asked for at most every few seconds however many scrape."""

    def __init__(
        self,
        source: FigureSource,
        cache_s: float = CACHE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._cache_s, self._clock = source, cache_s, clock
        self._lock = threading.Lock()
        self._until = float("-inf")
        self._known: Figures | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """A ledger that does not answer takes its figures away, never the scrape."""
        figures = self.figures()
        up = 0 if figures is None else 1
        yield _gauge("ledger_up", "Whether the database answered the last question.", up)
        if figures is not None:
            yield from _of_jobs(figures)
            yield from _of_units(figures)
            yield from _of_webhooks(figures)

    def figures(self) -> Figures | None:
        """At most a few seconds old; None if the ledger did not answer."""
        with self._lock:
            if self._clock() >= self._until:
                try:
                    self._known = self._source.read()
                except ArrowQuantError:
                    self._known = None
                self._until = self._clock() + self._cache_s
            return self._known


def _of_jobs(figures: Figures) -> Iterator[Metric]:
    states = {state.value: figures.jobs.get(state.value, 0) for state in JobState}
    yield _labelled("jobs", "Jobs by state.", "state", states)
    yield _labelled("failed_jobs", "FAILED jobs by error code.", "code", figures.failed)
    yield _by_priority("queued_jobs", "Jobs that no worker has taken yet.", figures.queued)
    yield _by_priority(
        "queue_age_seconds", "How long the oldest QUEUED job waits.", figures.oldest_queued_s
    )
    yield _gauge("source_bytes_per_second", "Source bytes, over running jobs.", figures.bytes_per_s)
    yield _gauge("tensors_per_second", "Tensors, over running jobs.", figures.tensors_per_s)


def _of_units(figures: Figures) -> Iterator[Metric]:
    yield _by_priority("claimable_units", "Units a worker could take now.", figures.claimable)
    yield _gauge("delayed_units", "Units that wait for another try.", figures.delayed)
    yield _gauge("leased_units", "Units in the hands of workers.", figures.leased)
    yield _gauge("overdue_leases", "Leases that ran out, not taken over.", figures.overdue)
    yield _gauge(
        "lease_age_seconds", "Longest time since a unit's holder was heard of.", figures.lease_age_s
    )
    yield _gauge("unit_rss_bytes", "Memory of the largest process at work.", figures.rss_max_bytes)


def _of_webhooks(figures: Figures) -> Iterator[Metric]:
    yield _gauge("webhooks_pending", "Messages still to be delivered.", figures.webhooks_pending)
    yield _gauge(
        "webhook_delay_seconds", "How long the oldest has been due.", figures.webhook_age_s
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"arrowquant_{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"arrowquant_{name}", text, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric([str(key)], value)
    return family


def _by_priority(name: str, text: str, values: dict[int, Any]) -> Metric:
    filled = dict.fromkeys(_NAMES, 0) | values
    named = {_NAMES.get(number, str(number)): value for number, value in filled.items()}
    return _labelled(name, text, "priority", named)

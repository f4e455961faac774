"""`python -m workers.exporter`: a worker's metrics and its health over HTTP, in a process of its own.

The worker's parent starts it when ARROWQUANT_METRICS_PORT is set, and it ends with its parent. It is
a process because the parent forks, and so must not have threads or sockets.

    GET /metrics   counters of all processes the pool has had, and the memory of the present ones
    GET /healthz   200 while the worker makes progress, else 503 (see workers.alive)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psutil
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from workers import alive

_PR_SET_PDEATHSIG = 1


class MemoryCollector(Collector):
    """Resident memory of the worker: its parent, and the processes of its pool."""

    def __init__(self, parent: psutil.Process) -> None:
        self._parent = parent

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "arrowquant_worker_rss_bytes", "Resident memory.", labels=("process",)
        )
        family.add_metric(["parent"], _rss(self._parent))
        pool = [p for p in self._parent.children() if p.pid != os.getpid()]
        family.add_metric(["pool"], sum(_rss(process) for process in pool))
        yield family


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0


class _Silent(WSGIRequestHandler):
    timeout = 10  # of a client that connects and says nothing

    def log_message(self, *_: object) -> None:
        """A line for each probe would be noise."""


def application(folder: Path, parent: psutil.Process) -> Any:
    """The WSGI application."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(MemoryCollector(parent))
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                problem = alive.problem(folder)
                status = "503 Service Unavailable" if problem else "200 OK"
                start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
                return [(problem or "ok").encode() + b"\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"see /metrics and /healthz\n"]

    return answer


def main() -> None:
    """host, port, folder"""
    host, port, folder = sys.argv[1:]
    parent = psutil.Process(os.getppid())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ctrl-C in a terminal goes to the whole group: the parent decides when this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    app = application(Path(folder), parent)
    with make_server(host, int(port), app, ThreadingWSGIServer, _Silent) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

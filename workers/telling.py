"""What a working process tells of its work: spans to a collector, lines to the logs of jobs."""

from __future__ import annotations

from collections.abc import Callable

from service import logs, tracing
from service.wiring import Deps
from workers.job_log import JobLogWriter


def begin(deps: Deps) -> Callable[[], None]:
    """Begin to tell, in a process that does not fork any more; returns how to end."""
    tracing.start("arrowquant-worker")
    writer = JobLogWriter(deps.job_log)
    writer.start()
    logs.send_to(writer)

    def end() -> None:
        logs.send_to(None)
        writer.stop()
        tracing.stop()

    return end

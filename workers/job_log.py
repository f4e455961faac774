"""From a worker's log to the logs of jobs: lines go to the ledger twice a second, from a thread.

So what a worker said is there when it has been killed, up to its last half second. The work never
waits for it: while the database is away, lines wait in bounded memory, and the oldest are given up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from service.domain.errors import ArrowQuantError
from service.domain.job_log import JobLog, LogLine

log = structlog.get_logger(__name__)
PERIOD_S: Final = 0.5
WAITING: Final = 2000
# Fields with a place of their own, and those that are for the operator's eyes only.
_OWN: Final = frozenset({"job_id", "event", "level", "timestamp", "unit", "tensor", "trace_id"})
_HIDDEN: Final = frozenset({"logger", "exception", "stack", "tenant", "stack_info", "exc_info"})


class JobLogWriter:
    """A sink of the log (service.logs) that writes to jobs' logs."""

    def __init__(self, store: JobLog, period_s: float = PERIOD_S, waiting: int = WAITING) -> None:
        self._store, self._period = store, period_s
        self._lines: deque[tuple[str, LogLine]] = deque(maxlen=waiting)
        self._lost = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take a line; never blocks."""
        line = (str(event["job_id"]), _line(event))
        with self._lock:
            self._lost += len(self._lines) == self._lines.maxlen
            self._lines.append(line)

    def stop(self) -> None:
        """Write what is left, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def flush(self) -> None:
        """Write what is there. What cannot be written now waits for the next time."""
        with self._writing:
            while batch := self._take():
                job_id, lines, lost = batch
                mark = [_lost(lost)] if lost else []
                try:
                    self._store.append(job_id, mark + lines)
                except ArrowQuantError:
                    self._give_back(job_id, lines, lost)
                    return

    def _take(self) -> tuple[str, list[LogLine], int] | None:
        """All lines of one job, in order, and how many were given up before them."""
        with self._lock:
            if not self._lines:
                return None
            job_id = self._lines[0][0]
            lines = [line for owner, line in self._lines if owner == job_id]
            others = [entry for entry in self._lines if entry[0] != job_id]
            self._lines.clear()
            self._lines.extend(others)
            lost, self._lost = self._lost, 0
            return job_id, lines, lost

    def _give_back(self, job_id: str, lines: Iterable[LogLine], lost: int) -> None:
        with self._lock:
            waiting = [(job_id, line) for line in lines] + list(self._lines)
            room = self._lines.maxlen or len(waiting)
            self._lost += lost + max(0, len(waiting) - room)
            self._lines.clear()
            self._lines.extend(waiting)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._safely()
        self._safely()

    def _safely(self) -> None:
        try:
            self.flush()
        except Exception:
            # Lines are for reading: what is wrong with them must not end the thread, or the work.
            log.exception("job_log_failed")


def _line(event: dict[str, Any]) -> LogLine:
    data = {key: value for key, value in event.items() if key not in _OWN | _HIDDEN}
    return LogLine(
        seq=0,
        time=_time(event.get("timestamp")),
        level=str(event.get("level", "info")),
        event=str(_plain(event.get("event", ""))),
        unit=_text(event.get("unit")),
        tensor=_text(event.get("tensor")),
        trace_id=_text(event.get("trace_id")),
        data=_plain(data),
    )


def _lost(count: int) -> LogLine:
    now = datetime.now(UTC)
    return LogLine(0, now, "warning", "lines_lost", data={"lines": count})


def _time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.now(UTC)


def _text(value: Any) -> str | None:
    return None if value is None else str(_plain(str(value)))


def _plain(value: Any) -> Any:
    """As JSON can hold it: names in files may have characters that no encoding has."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value

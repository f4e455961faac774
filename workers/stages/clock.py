"""How long the stages of a unit were busy, and with how many bytes.

They overlap, each in threads of its own: a stage's seconds say which of them the others wait for.
Of a stage that has several threads they are those of all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from service import tracing
from workers import counters

FETCH: Final = "fetch"
ENCODE: Final = "encode"
WRITE: Final = "write"
PUBLISH: Final = "publish"


@dataclass(slots=True)
class StageTime:
    """One stage so far. `first` and `last` are nanoseconds since 1970."""

    first: int
    last: int
    busy_s: float = 0.0
    steps: int = 0
    nbytes: int = 0


class Stages:
    """The stages of one unit, measured from whichever threads they have."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.times: dict[str, StageTime] = {}

    @contextmanager
    def measure(self, stage: str, nbytes: int = 0) -> Iterator[None]:
        """Time a step of a stage. A step that fails counts too: it took its time."""
        began, started = time.time_ns(), time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                entry = self.times.setdefault(stage, StageTime(began, began))
                entry.last = time.time_ns()
                entry.busy_s += seconds
                entry.steps += 1
                entry.nbytes += nbytes
            counters.stage_seconds.labels(stage).inc(seconds)

    def tell(self) -> None:
        """A span for each stage, below the unit's."""
        for stage, time_ in sorted(self.times.items(), key=lambda item: item[1].first):
            facts = {"busy_s": round(time_.busy_s, 6), "steps": time_.steps, "bytes": time_.nbytes}
            tracing.finished(stage, time_.first, time_.last, facts)

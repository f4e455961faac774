"""A worker's own look for work: the bell makes it quick, and nothing depends on the bell.

With the broker down, frozen or deaf to this worker, jobs begin some seconds later instead of never.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from service.domain.errors import ArrowQuantError
from workers.pulse import Pulse

log = structlog.get_logger(__name__)
PERIOD_S: Final = 5.0


class Lookout:
    """A thread of the pool process. Work itself is done by one thread at a time: this one, or the
    one in which Celery answers the bell."""

    def __init__(
        self, work: Callable[[Callable[[], bool]], object], pulse: Pulse, period_s: float = PERIOD_S
    ) -> None:
        """work: does units until none is left or the function that it is given says stop."""
        self._work, self._pulse, self._period = work, pulse, period_s
        self._at_work = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._pulse.idle()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; waits for the unit in hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def answer(self, stop: Callable[[], bool]) -> None:
        """Work in the calling thread, once the other has finished. Raises as `work` does."""
        with self._at_work:
            self._work(stop)
            self._pulse.idle()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            if not self._at_work.acquire(blocking=False):
                continue
            try:
                self._pulse.idle()
                self._work(self._stop.is_set)
                self._pulse.idle()
            except ArrowQuantError as error:
                log.warning("ledger_unreachable", error=str(error))  # the next look is soon
            finally:
                self._at_work.release()

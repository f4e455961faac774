"""The one thing that must happen although nobody asks: find work whose bell was lost, and ring.

A message can be lost, a broker can be down when a job is accepted, a worker can die with a unit in
its hands. The ledger knows all of it; every API process looks once a second. Several sweepers, or a
ring too many, do no harm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from service.domain.errors import ArrowQuantError
from service.domain.fleet import Fleet
from service.domain.ports import Bell, Ledger

log = structlog.get_logger(__name__)

PERIOD_S = 1.0
# While the same work goes unanswered (every worker is busy), ring less and less often.
LONGEST_SILENCE_S = 16.0


class Sweeper:
    """A thread beside the API."""

    def __init__(
        self,
        ledger: Ledger,
        bell: Bell,
        fleet: Fleet,
        period_s: float = PERIOD_S,
        also: Sequence[Callable[[], object]] = (),
    ) -> None:
        """also: what else is to be done at every look"""
        self._also = also
        self._ledger, self._bell, self._fleet, self._period = ledger, bell, fleet, period_s
        self._silence, self._since = period_s, 0.0
        self._stop = threading.Event()
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; waits for a look that is under way."""
        self._stop.set()
        self._thread.join()

    @property
    def age_s(self) -> float:
        """Seconds since the last look that succeeded."""
        return time.monotonic() - self._looked

    def look(self) -> None:
        """One look: end what is over time, ring for what nobody has taken."""
        self._ledger.sweep()
        self._fleet.forget_lost()
        for sweep in self._also:
            sweep()
        if not self._ledger.has_work():
            self._silence, self._since = self._period, 0.0
            return
        self._since += self._period
        if self._since >= self._silence:
            self._bell.ring()
            self._since = 0.0
            self._silence = min(LONGEST_SILENCE_S, 2 * self._silence)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self.look()
                self._looked = time.monotonic()
            except ArrowQuantError as error:
                # The database or the broker is down; both come back, and so does this.
                log.warning("sweep_failed", error=str(error))

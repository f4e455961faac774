"""A worker without a broker: it claims from the ledger until nothing is left, then ends.

For clusters that own their queue (Slurm, Kueue): a batch job there starts pilots, and each takes
whatever units are claimable while its allocation lasts. The ledger stays the only queue, so pilots
and Celery's workers may work on the same jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from service.domain.errors import ArrowQuantError
from workers.stop import Stop
from workers.workshop import Workshop

log = structlog.get_logger(__name__)

# Between two looks at a ledger in which nothing is claimable.
POLL_S: Final = 1.0
# How long the ledger may be out of reach before the allocation is given back.
PATIENCE_S: Final = 120.0
# Of the time allowed, what is kept for giving the unit in hand back.
GRACE_SHARE: Final = 0.1
MOST_GRACE_S: Final = 30.0


class Ended(StrEnum):
    """Why a pilot ended."""

    IDLE = "idle"  #: nothing was claimable for as long as it was to wait
    ENOUGH = "enough"  #: it took as many units as it was to take
    TIME = "time"  #: its time is nearly over
    SIGNAL = "signal"  #: it was told to stop
    UNREACHABLE = "unreachable"  #: the ledger did not answer for too long


@dataclass(frozen=True, slots=True)
class Limits:
    """When to end, in seconds and units; None is never."""

    idle_s: float = 60.0
    time_s: float | None = None
    units: int | None = None

    @property
    def working_s(self) -> float | None:
        """The time after which the unit in hand is given back."""
        if self.time_s is None:
            return None
        return self.time_s - min(MOST_GRACE_S, GRACE_SHARE * self.time_s)


class Pilot:
    """One process's share of the work.

    stop  told by a signal; the workshop looks at `interrupted` between tiles
    """

    def __init__(
        self,
        limits: Limits,
        stop: Stop,
        now: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
    ) -> None:
        self._limits, self._stop, self._now, self._poll_s = limits, stop, now, poll_s
        self._began = now()
        self.units = 0

    def interrupted(self) -> bool:
        """Whether even the unit in hand is to be given back."""
        return self._stop.asked or self._out_of_time()

    def run(self, workshop: Workshop) -> Ended:
        """Claim and work until one of the limits is met."""
        quiet_since = heard = self._now()
        while (end := self._end()) is None:
            try:
                taken = workshop.run(stop=self.interrupted, most=self._left())
            except ArrowQuantError as error:
                log.warning("ledger_unreachable", error=str(error))
                if self._now() - heard > PATIENCE_S:
                    return Ended.UNREACHABLE
                self._stop.wait(self._poll_s)
                continue
            heard = self._now()
            self.units += taken
            if taken:
                quiet_since = heard
            elif heard - quiet_since >= self._limits.idle_s:
                return Ended.IDLE
            elif not self.interrupted():
                self._stop.wait(self._poll_s)
        return end

    def _end(self) -> Ended | None:
        if self._stop.asked:
            return Ended.SIGNAL
        if self._out_of_time():
            return Ended.TIME
        return Ended.ENOUGH if self._left() == 0 else None

    def _left(self) -> int | None:
        return None if self._limits.units is None else self._limits.units - self.units

    def _out_of_time(self) -> bool:
        working_s = self._limits.working_s
        return working_s is not None and self._now() - self._began >= working_s

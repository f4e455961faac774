"""A unit's lease, kept alive by a thread beside the work, and the word to stop.

The pipeline calls `check` between tiles, so cancelling a job or losing a unit takes effect within
a heartbeat and a tile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil
import structlog

from service import logs
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import Claim, UnitKind, Usage
from service.domain.ports import Ledger

log = structlog.get_logger(__name__)


# Whose last figures nobody else tells.
_TELLING = frozenset({UnitKind.PLAN, UnitKind.ANALYZE, UnitKind.ALLOCATE, UnitKind.QUANTIZE})


class Interrupted(Exception):
    """This process is to end: the unit goes back unfinished, for somebody else."""


class Lease:
    """Context manager around the work on one claim."""

    def __init__(
        self,
        ledger: Ledger,
        claim: Claim,
        period_s: float,
        patience_s: float,
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[], None] = lambda: None,
        bytes_read: Callable[[], int] = lambda: 0,
        moved: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """period_s: time between heartbeats; patience_s: how long the ledger may be out of
        reach before the lease must be taken for lost (less than the lease itself); interrupted:
        whether the unit is to be given back, though the lease holds; progress: called whenever the
        work has come to its next step; bytes_read: what came from the source so far; moved:
        bytes read from and written to all stores so far."""
        self.claim = claim
        self._interrupted = interrupted
        self._ledger = ledger
        self._period, self._patience = period_s, patience_s
        self._progress = progress
        self._bytes_done, self._bytes_read = 0, bytes_read
        self._moved = moved
        self._told = Usage()
        self._telling = threading.Lock()
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=logs.in_context(self._beat), name="lease", daemon=True
        )
        self._process = psutil.Process()
        self._began = (self._cpu_s(), time.monotonic())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None and self.claim.kind in _TELLING:
            with contextlib.suppress(LeaseLost, ArrowQuantError):
                self._renew()  # what it took since the last beat

    def advance(self, nbytes: int) -> None:
        """Source bytes finished since the last call."""
        self._bytes_done += nbytes

    def rewind(self) -> None:
        """The unit starts over."""
        self._bytes_done = 0

    def check(self) -> None:
        """Raises LeaseLost if the work must stop, Interrupted if it is to be given back."""
        self._progress()
        self._raise_if_lost()
        if self._interrupted():
            raise Interrupted

    def confirm(self) -> None:
        """Ask the ledger now: the last check before something becomes visible. What is finished
        is not given back."""
        self._raise_if_lost()
        self._renew()

    def _renew(self) -> None:
        rss = self._process.memory_info().rss
        # Told in steps, each once: by the thread that beats or by the one that works.
        with self._telling:
            total = self._used()
            self._ledger.heartbeat(
                self.claim, self._bytes_done, rss, self._bytes_read(), total - self._told
            )
            self._told = total

    def _used(self) -> Usage:
        """Under this claim so far."""
        cpu_s, started = self._began
        read, written = self._moved()
        return Usage(self._cpu_s() - cpu_s, time.monotonic() - started, read, written)

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def _beat(self) -> None:
        heard = time.monotonic()
        while not self._stop.wait(self._period):
            try:
                self._renew()
                heard = time.monotonic()
            except LeaseLost as error:
                self._lost = str(error) or "the lease was taken"
                return
            except ArrowQuantError as error:
                # By the clock: an attempt that hangs takes longer than a period.
                silent = round(time.monotonic() - heard, 1)
                log.warning("heartbeat_failed", error=str(error), silent_s=silent)
                if silent > self._patience:
                    self._lost = "the ledger could not be reached to renew the lease"
                    return

"""A thread that says that this process lives, and hears whether it is to take no more work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

import psutil
import structlog

from service.domain.errors import ArrowQuantError
from service.domain.fleet import Fleet
from service.domain.job import Worker

log = structlog.get_logger(__name__)
VERSION: Final = version("arrowquant-server")
LONGEST_PERIOD_S: Final = 5.0


class Presence:
    """Beside the work, so that a worker is heard of however long its unit takes.

    draining  whether this process takes no more work already
    drain     called when somebody asks it to
    """

    def __init__(
        self,
        fleet: Fleet,
        worker: Worker,
        lease_s: float,
        draining: Callable[[], bool],
        drain: Callable[[], object],
    ) -> None:
        self._fleet, self._worker = fleet, worker
        self._draining, self._drain = draining, drain
        # A worker that has not been heard of for a lease counts as lost.
        self._period = min(LONGEST_PERIOD_S, lease_s / 4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self._process = psutil.Process()

    def start(self) -> None:
        """Begin; the first word is said at once."""
        self._thread.start()

    def stop(self) -> None:
        """The process ends: it is no longer there for anybody."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._fleet.leave(self._worker)
        except ArrowQuantError as error:
            log.warning("presence_left_behind", error=str(error))

    def _run(self) -> None:
        while True:
            try:
                self._beat()
            except ArrowQuantError as error:
                # Nothing depends on being listed: leases say who works.
                log.warning("presence_not_told", error=str(error))
            if self._stop.wait(self._period):
                return

    def _beat(self) -> None:
        draining, rss = self._draining(), self._process.memory_info().rss
        asked = self._fleet.beat(self._worker, VERSION, rss, draining=draining)
        if asked and not draining:
            log.info("drain_asked")
            self._drain()

"""One task that asks which jobs have news, for everyone who waits.

Five hundred open streams cost one query every third of a second, not five hundred.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from starlette.concurrency import run_in_threadpool

log = structlog.get_logger(__name__)

INTERVAL_S: Final = 0.3
AFTER_ERROR_S: Final = 2.0

Heads = Callable[[Sequence[str]], dict[str, int]]


class Watch:
    """Wakes those who wait for a job's next event.

    heads  the highest event number of each job (`Ledger.event_heads`)
    news   whether a head is news to who knows another: a higher one, unless heads do not grow
    """

    def __init__(
        self,
        heads: Heads,
        interval_s: float = INTERVAL_S,
        news: Callable[[int, int], bool] = operator.gt,
    ) -> None:
        self._heads, self._interval_s, self._news = heads, interval_s, news
        self._waiting: dict[str, set[tuple[int, asyncio.Future[None]]]] = {}
        self._someone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begin asking; it only asks while someone waits."""
        self._task = asyncio.create_task(self._run(), name="watch")

    def release(self) -> None:
        """The service is about to end: whoever waits is let go, and nobody waits any more."""
        self._closing = True
        for waiters in self._waiting.values():
            for _, future in waiters:
                if not future.done():
                    future.set_result(None)

    @property
    def closing(self) -> bool:
        """Whether the service is about to end."""
        return self._closing

    async def stop(self) -> None:
        """End the task. Whoever still waits is cancelled with the request."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def newer(self, job_id: str, after: int, timeout_s: float | None = None) -> bool:
        """Wait until the job has an event past `after`; False when the time is over first, or the
        service is about to end."""
        if self._closing:
            return False
        entry = (after, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(job_id, set()).add(entry)
        self._someone.set()
        try:
            await asyncio.wait_for(entry[1], timeout_s)
        except TimeoutError:
            return False
        finally:
            waiters = self._waiting[job_id]
            waiters.discard(entry)
            if not waiters:
                del self._waiting[job_id]
        return not self._closing

    async def _run(self) -> None:
        while True:
            await self._someone.wait()
            pause_s = self._interval_s
            try:
                self._wake(await run_in_threadpool(self._heads, list(self._waiting)))
            except Exception as error:  # noqa: BLE001  # streams outlive a database that is away
                log.warning("cannot ask for events", error=str(error))
                pause_s = AFTER_ERROR_S
            if not self._waiting:
                self._someone.clear()
            await asyncio.sleep(pause_s)

    def _wake(self, heads: dict[str, int]) -> None:
        for job_id, head in heads.items():
            for after, future in self._waiting.get(job_id, ()):
                if self._news(head, after) and not future.done():
                    future.set_result(None)

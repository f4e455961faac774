"""Blocks of rows on a few threads, with results that do not depend on how many.

No result depends on the cut. Blocks are handed out in order from one counter, not dealt beforehand,
so a thread that loses its processor delays one block only.

Helpers are started when they are first needed and wait for the next call: starting and ending them
anew cost a tenth of a tile that is quantized fast. A forked child, which has none of its parent's
threads, begins with none.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

BLOCK_WEIGHTS = 1 << 17  # small enough to balance, large enough to hide the cost of a call
MOST_WEIGHTS = 1 << 20  # of kernels so fast that calls cost them a tenth otherwise
BLOCKS = 4  # for each thread, if that leaves them large enough


def blocks(rows: int, cols: int, weights: int = BLOCK_WEIGHTS) -> list[slice]:
    """Row ranges of about so many weights."""
    height = max(1, weights // cols)
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


MOST_HELPERS = 256  # of a process; a call that gets none does all of its work itself


class _Helpers:
    """The process's threads beside those that call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Have a helper do this, when one is free."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(MOST_HELPERS, "kernels")
            return self._pool.submit(work)

    def forget(self) -> None:
        """In a forked child: the threads, and whoever held the lock, stayed with the parent."""
        self._lock = threading.Lock()
        self._pool = None


_HELPERS = _Helpers()
os.register_at_fork(after_in_child=_HELPERS.forget)


class _Pass:
    """One pass over a list of blocks; each thread calls drain until nothing is left."""

    def __init__(self, work: Callable[[slice], int], parts: list[slice]) -> None:
        self._work = work
        self._parts = parts
        self._next = 0
        self._lock = threading.Lock()
        self.stops: dict[int, int] = {}

    def _take(self) -> int | None:
        with self._lock:
            if self.stops or self._next == len(self._parts):
                return None
            self._next += 1
            return self._next - 1

    def close(self) -> None:
        """Hand out nothing more; helpers end after the block they have."""
        with self._lock:
            self._next = len(self._parts)

    def drain(self) -> None:
        """Work on blocks in order; none is handed out once one has reported a position."""
        while (index := self._take()) is not None:
            position = self._work(self._parts[index])
            if position >= 0:
                with self._lock:
                    self.stops[index] = position


def over_rows(
    work: Callable[[slice], int], rows: int, cols: int, threads: int, most: int = BLOCK_WEIGHTS
) -> tuple[int, int] | None:
    """Call work for every block of rows, on the calling thread and threads - 1 helpers.

    work    takes a row range, returns -1 or a row-major position inside of it that stops the pass
    most    weights in a block: BLOCK_WEIGHTS, or up to MOST_WEIGHTS where calls count
    Result  None, or the first (row, col) reported. Blocks are handed out in order and those handed
            out are finished, so the first report does not depend on the number of threads.
    """
    fair = rows * cols // (BLOCKS * threads if threads > 1 else 1)
    parts = blocks(rows, cols, min(most, max(BLOCK_WEIGHTS, fair)))
    run = _Pass(work, parts)
    helpers = min(threads, len(parts)) - 1
    if helpers < 1:
        run.drain()
    else:
        futures = [_HELPERS.submit(run.drain) for _ in range(helpers)]
        try:
            run.drain()
        finally:
            run.close()
            # Those that had not begun find nothing left to do.
            begun = [future for future in futures if not future.cancel()]
            wait(begun)
        for future in begun:
            future.result()
    if not run.stops:
        return None
    first = min(run.stops)
    row, col = divmod(run.stops[first], cols)
    return parts[first].start + row, col


def over_tiles(work: Callable[[int], None], count: int, threads: int) -> None:
    """Call work(0) .. work(count - 1), which do not depend on each other, as over_rows does."""

    def one(part: slice) -> int:
        work(part.start)
        return -1

    over_rows(one, count, BLOCK_WEIGHTS, threads)

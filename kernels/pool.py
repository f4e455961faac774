"""Blocks of rows on a few threads, with results that do not depend on how many.

The cut into blocks is a function of the number of columns alone. Blocks are handed out in order
from a queue, not dealt beforehand, so a thread that loses its processor delays one block only.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

BLOCK_WEIGHTS = 1 << 17  # small enough to balance, large enough to hide the cost of a call
MOST_THREADS = 256

_lock = threading.Lock()
_executor: tuple[int, ThreadPoolExecutor] | None = None


def _after_fork() -> None:
    """Forget the parent's pool and lock: its threads do not exist in the child."""
    global _lock, _executor
    _lock = threading.Lock()
    _executor = None


os.register_at_fork(after_in_child=_after_fork)


def _helpers() -> ThreadPoolExecutor:
    """The pool of this process, made on first use; its threads start when needed."""
    global _executor
    with _lock:
        if _executor is None or _executor[0] != os.getpid():
            _executor = (os.getpid(), ThreadPoolExecutor(MOST_THREADS, "kernels"))
        return _executor[1]


def blocks(rows: int, cols: int) -> list[slice]:
    """Row ranges of about BLOCK_WEIGHTS weights."""
    height = max(1, BLOCK_WEIGHTS // max(1, cols))
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


class _Run:
    """One pass over a list of blocks; threads call drain until nothing is left."""

    def __init__(self, work: Callable[[slice], int], parts: list[slice]) -> None:
        self._work = work
        self._parts = parts
        self._next = 0
        self._lock = threading.Lock()
        self.stopped_at: dict[int, int] = {}

    def drain(self) -> None:
        """Work on blocks in order; stop handing them out once one has reported a position."""
        while True:
            with self._lock:
                index = self._next
                if index >= len(self._parts) or self.stopped_at:
                    return
                self._next = index + 1
            position = self._work(self._parts[index])
            if position >= 0:
                with self._lock:
                    self.stopped_at[index] = position


def over_rows(
    work: Callable[[slice], int], rows: int, cols: int, threads: int
) -> tuple[int, int] | None:
    """Call work for every block of rows, on the calling thread and threads - 1 helpers.

    work    takes a row range, returns -1 or a row-major position inside of it that stops the pass
    Result  None, or the first (row, col) reported. Blocks are handed out in order and those handed
            out are finished, so the first report does not depend on the number of threads.
    """
    parts = blocks(rows, cols)
    run = _Run(work, parts)
    count = min(threads, len(parts)) - 1
    futures = [_helpers().submit(run.drain) for _ in range(count)]
    try:
        run.drain()
    finally:
        running = [future for future in futures if not future.cancel()]
        wait(running)
    for future in running:
        future.result()
    if not run.stopped_at:
        return None
    first = min(run.stopped_at)
    row, col = divmod(run.stopped_at[first], cols)
    return parts[first].start + row, col

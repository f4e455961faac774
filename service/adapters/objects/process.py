"""Things that must not be shared with a forked child: locks, sockets, thread pools."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class PerProcess(Generic[T]):
    """A value made on first use in each process."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}

    def get(self) -> T:
        pid = os.getpid()
        value = self._values.get(pid)
        # Two threads may both make one; the first to store it wins, so all use the same.
        return value if value is not None else self._values.setdefault(pid, self._make())

    def pop(self) -> T | None:
        """Forget this process's value and return it, if there is one."""
        return self._values.pop(os.getpid(), None)


class ContextPool(ThreadPoolExecutor):
    """Threads whose log lines and spans belong to whoever gave them the work."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As the base class does."""
        work = partial(fn, *args, **kwargs)
        return super().submit(contextvars.copy_context().run, work)

"""Things that must not be shared with a forked child: locks, sockets, thread pools."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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

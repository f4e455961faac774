"""Calls that may take long in the hands of others, bounded by the clock."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from service.domain.errors import ArrowQuantError

T = TypeVar("T")


class TookTooLong(ArrowQuantError):
    """The call was given up. It says nothing about what was asked."""


class Bounded:
    """Runs calls in threads of its own and stops waiting for them after a while.

    A call that is given up goes on until its own time-outs end it; at most `limit` run at once, so
    a store that hangs cannot use up the process.
    """

    def __init__(self, seconds: float, limit: int, code: str, what: str) -> None:
        self._seconds, self._code, self._what = seconds, code, what
        self._free = threading.BoundedSemaphore(limit)

    def call(self, function: Callable[[], T]) -> T:
        """The function's result or exception; past the time, TookTooLong with the given code."""
        if not self._free.acquire(timeout=self._seconds):
            raise self._late("too many requests wait for it")
        running = _Running(function, self._free.release)
        if not running.done.wait(self._seconds):
            raise self._late(f"no answer within {self._seconds:g} s")
        return running.result()

    def _late(self, why: str) -> TookTooLong:
        return TookTooLong(self._code, f"{self._what}: {why}", "Try again in a moment.")


class _Running(Generic[T]):
    def __init__(self, function: Callable[[], T], after: Callable[[], None]) -> None:
        self.done = threading.Event()
        self._function, self._after = function, after
        self._value: T | None = None
        self._error: BaseException | None = None
        # A daemon: a store that never answers must not keep the process from ending.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run,), name="bounded", daemon=True).start()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set by then, possibly to None

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            self._error = error
        finally:
            self._after()
            self.done.set()

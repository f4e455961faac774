"""How long to wait for PostgreSQL: a server that is frozen, or a network that swallows packets, must
not hold a request for ever.

The server's own limits cannot help when the server is what hangs, so the client keeps the time too.
After one call has found out that the database is away, others do not each find out for themselves.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

DEFAULT_S: Final = 10.0
# Who comes while another asks waits for his answer, but not longer than answers usually take.
JOIN_S: Final = 1.0
_POLL_S: Final = 0.1
T = TypeVar("T")


class PatientConnection(psycopg.Connection[Any]):
    """A connection that is closed if an answer takes too long."""

    limit_s: float = DEFAULT_S

    def wait(self, gen: PQGen[T], interval: float = _POLL_S, timeout: float | None = None) -> T:
        """As the base class, which is where all waiting is done."""
        began = time.monotonic()
        try:
            return super().wait(gen, interval, timeout or self.limit_s)
        except psycopg.OperationalError:
            if time.monotonic() - began >= self.limit_s:
                # Its answer may still come, and would be taken for that of the next question.
                self.close()
            raise


def bound(engine: Engine, seconds: float) -> None:
    """Make every connection of this engine patient for so long."""

    def connect(_dialect: Any, _record: Any, args: Any, parameters: Any) -> PatientConnection:
        connection = PatientConnection.connect(*args, **parameters)
        connection.limit_s = seconds
        return connection

    event.listen(engine, "do_connect", connect)


class Away(Exception):
    """Another call has just found that the database does not answer."""


class Outage:
    """Whether a database is away. While it is, one caller at a time asks it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._away = self._asking = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a transaction. Raises Away at once, or almost, while another still asks."""
        asks = self._enter()
        away: bool | None = None
        try:
            yield
            away = False
        except Exception as error:
            away = tells_of_an_outage(error)
            raise
        finally:
            self._leave(asks, away)

    def _enter(self) -> bool:
        if not self._away:
            return False
        with self._changed:
            end = time.monotonic() + JOIN_S
            while self._asking:
                left = end - time.monotonic()
                if left <= 0:
                    raise Away
                self._changed.wait(left)
            self._asking = self._away
            return self._asking

    def _leave(self, asks: bool, away: bool | None) -> None:
        if not (asks or away):
            return
        with self._changed:
            if away is not None:
                self._away = away
            if asks:
                self._asking = False
            self._changed.notify_all()


def tells_of_an_outage(error: Exception) -> bool:
    """Whether the connection failed, and not the statement."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    # Without a state the text is the driver's own: nobody was there, or nobody answered in time.
    return error.connection_invalidated or getattr(error.orig, "sqlstate", "") is None


_outages: weakref.WeakKeyDictionary[Engine, Outage] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def outage_of(engine: Engine) -> Outage:
    """The one that all users of an engine share."""
    with _lock:
        return _outages.setdefault(engine, Outage())

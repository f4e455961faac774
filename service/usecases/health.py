"""Whether the parts that a request needs answer, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.domain.errors import ArrowQuantError
from service.domain.ports import Bell, Ledger
from service.usecases.bounded import Bounded

PROBE_S: Final = 2.5
_database = Bounded(PROBE_S, 4, "database_unavailable", "the database")
_broker = Bounded(PROBE_S, 4, "broker_unavailable", "the broker")


@dataclass(frozen=True, slots=True)
class Check:
    """One part. `error` is a code, or None."""

    name: str
    error: str | None
    latency_ms: float


def check(ledger: Ledger, bell: Bell) -> list[Check]:
    """Ask each part once."""
    return [_ask("database", _database, ledger.check), _ask("broker", _broker, bell.check)]


def _ask(name: str, bounded: Bounded, question: Callable[[], None]) -> Check:
    started, error = time.monotonic(), None
    try:
        bounded.call(question)
    except ArrowQuantError as raised:
        error = raised.code
    return Check(name, error, round(1000 * (time.monotonic() - started), 1))

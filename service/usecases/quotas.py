"""Limits of tenants as the API reads them, and the rate of its requests.

Requests are counted in memory, in each API process: a count in SQL would make a write of every
read, and take the database's one writer (SQLite) or a hot row (PostgreSQL) for each of them. What it
protects is the process, so that is where it counts; with three processes a tenant may send three
times as much. The limits of jobs and bytes, which cost real work, are exact: the ledger holds them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ports import Clock
from service.domain.quotas import DayUsage, Quotas

WINDOW_S: Final = 60
# A changed limit holds everywhere after so long.
REMEMBERED_S: Final = 10.0
DEFAULT_DAYS: Final = 30
MAX_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class Rate:
    """One request counted: `remaining` more fit until `reset_s` seconds from now."""

    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has them."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={WINDOW_S}',
            "RateLimit": f'"requests";r={max(0, self.remaining)};t={self.reset_s}',
        }

    def require(self) -> None:
        """Raises rate_limited if this request was one too many."""
        if self.remaining < 0:
            raise ArrowQuantError(
                "rate_limited",
                f"the limit of {self.limit} requests in {WINDOW_S} s is used up",
                "Wait as long as Retry-After says; use ?wait= or the event stream to follow a job.",
                {"limit": "requests_per_minute", "retry_after_s": self.reset_s},
            )


class Limiter:
    """Counts the requests of tenants against their limits, in windows of a minute."""

    def __init__(self, quotas: Quotas, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._quotas, self._now = quotas, monotonic
        self._lock = threading.Lock()
        self._limits: dict[str, tuple[float, int | None]] = {}
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, tenant: str) -> Rate | None:
        """Count a request. None: the tenant has no limit. Asks the database now and then."""
        limit = self._limit(tenant)
        if limit is None:
            return None
        now = self._now()
        with self._lock:
            start, taken = self._windows.get(tenant, (now, 0))
            if now - start >= WINDOW_S:
                start, taken = now, 0
            # Those that are refused do not count, or a client in a loop would never get in again.
            self._windows[tenant] = (start, min(taken + 1, limit))
        reset_s = max(1, math.ceil(start + WINDOW_S - now))
        return Rate(limit, limit - taken - 1, reset_s)

    def _limit(self, tenant: str) -> int | None:
        now = self._now()
        with self._lock:
            known = self._limits.get(tenant)
        if known is None or now - known[0] >= REMEMBERED_S:
            known = (now, self._quotas.of(tenant).requests_per_minute)
            with self._lock:
                self._limits[tenant] = known
        return known[1]


def usage(
    quotas: Quotas, clock: Clock, tenant: str, first: date | None, last: date | None
) -> Sequence[DayUsage]:
    """What a tenant did by day: the last thirty days unless asked otherwise."""
    last = last or clock.now().date()
    first = first or last - timedelta(days=DEFAULT_DAYS - 1)
    if not 0 <= (last - first).days < MAX_DAYS:
        detail = f"from must not be after to, and at most {MAX_DAYS} days before"
        raise ArrowQuantError("invalid_spec", detail, "", errors=(FieldError("", detail),))
    return quotas.usage(tenant, first, last)

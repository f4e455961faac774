"""How much a tenant may have, and how much it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Protocol

from service.domain.errors import ArrowQuantError


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of a tenant. None: no limit.

    running_jobs         at once, at least 1; what is more waits in the queue
    queued_jobs          at once; what is more is refused
    bytes_per_day        of the sources of the jobs accepted in a day (UTC)
    requests_per_minute  that one API process answers
    """

    running_jobs: int | None = None
    queued_jobs: int | None = None
    bytes_per_day: int | None = None
    requests_per_minute: int | None = None

    def overlaid(self, overrides: Mapping[str, int | None]) -> Quota:
        """These limits, with those that a tenant has of its own."""
        own = {name: overrides[name] for name in LIMITS if name in overrides}
        return Quota(**({name: getattr(self, name) for name in LIMITS} | own))


LIMITS: Final = tuple(field.name for field in fields(Quota))
NO_LIMITS: Final = Quota()


@dataclass(frozen=True, slots=True)
class Standing:
    """What a tenant has now. `bytes_today` starts again at `reset_time`."""

    running_jobs: int
    queued_jobs: int
    bytes_today: int
    reset_time: datetime


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What a tenant did on a day (UTC).

    jobs            accepted, and `bytes_planned` the size of their sources
    jobs_succeeded  on this day, with the `bytes_in` they read and the `bytes_out` of their artifacts
    """

    day: date
    jobs: int = 0
    jobs_succeeded: int = 0
    bytes_planned: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Quotas(Protocol):
    """Limits by tenant. What they limit is enforced where it happens, in the ledger."""

    def of(self, tenant: str) -> Quota:
        """The limits that hold: the tenant's own, else the defaults."""

    def overrides(self, tenant: str) -> dict[str, int | None]:
        """The tenant's own limits, by name; None among them: unlimited."""

    def override(self, tenant: str, limits: Mapping[str, int | None]) -> Quota:
        """Replace the tenant's own limits; what is not named is the default's again."""

    def standing(self, tenant: str) -> Standing: ...

    def usage(self, tenant: str, first: date, last: date) -> Sequence[DayUsage]:
        """Days on which something happened, oldest first; both ends included."""


def end_of_day(now: datetime) -> datetime:
    """Midnight in UTC, when a day's bytes are counted anew."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def exceeded(limit: str, detail: str, hint: str, retry_after_s: float) -> ArrowQuantError:
    """The refusal of what is too much."""
    where = {"limit": limit, "retry_after_s": max(1, round(retry_after_s))}
    return ArrowQuantError("quota_exceeded", detail, hint, where)

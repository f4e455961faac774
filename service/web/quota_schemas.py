"""What the operations on quotas and usage take and answer."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Self

from pydantic import Field

from service.domain.quotas import DayUsage, Quota, Standing
from service.domain.wire import Wire
from service.web.schemas import Out

_MOST = 2**53


class QuotaOverrides(Wire):
    """Limits that differ from the defaults. What is left out is the default's; null is no limit."""

    running_jobs: Annotated[int, Field(ge=1, le=_MOST)] | None = Field(
        None, description="Jobs that run at once; more wait."
    )
    queued_jobs: Annotated[int, Field(ge=0, le=_MOST)] | None = Field(
        None, description="Jobs that wait at once; more are refused."
    )
    bytes_per_day: Annotated[int, Field(ge=0, le=_MOST)] | None = Field(
        None, description="Source bytes of the jobs accepted in a day (UTC)."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=_MOST)] | None = Field(
        None, description="Requests that one API process answers in a minute."
    )


class LimitsOut(Out):
    """What a tenant may have. null: no limit."""

    running_jobs: int | None
    queued_jobs: int | None
    bytes_per_day: int | None
    requests_per_minute: int | None


class StandingOut(Out):
    """What a tenant has. `bytes_today` starts again at `reset_time`."""

    running_jobs: int
    queued_jobs: int
    bytes_today: int
    reset_time: datetime


class QuotaOut(Out):
    """Your limits, and how much of them is taken."""

    limits: LimitsOut
    used: StandingOut

    @classmethod
    def of(cls, quota: Quota, standing: Standing) -> Self:
        """A tenant's quota as the API shows it."""
        return cls(
            limits=LimitsOut.model_validate(quota), used=StandingOut.model_validate(standing)
        )


class TenantQuotaOut(Out):
    """The limits of a tenant, and those among them that are its own."""

    tenant: str
    limits: LimitsOut
    overrides: dict[str, int | None]


class DayOut(Out):
    """One day (UTC). `bytes_planned` are the sources of the `jobs` accepted on it; `bytes_in` and
    `bytes_out` the sources and the artifacts of the jobs that succeeded on it."""

    day: date
    jobs: int
    jobs_succeeded: int
    bytes_planned: int
    bytes_in: int
    bytes_out: int


class DailyUsageOut(Out):
    """Days on which something happened, oldest first."""

    days: list[DayOut]

    @classmethod
    def of(cls, days: list[DayUsage]) -> Self:
        """Usage as the API shows it."""
        return cls(days=[DayOut.model_validate(day) for day in days])

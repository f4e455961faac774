"""Types of quotas.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class DailyUsage(TypedDict):
    """Days on which something happened, oldest first."""

    days: list[Day]


class Day(TypedDict):
    """One day (UTC). `bytes_planned` are the sources of the `jobs` accepted on it; `bytes_in`
    and `bytes_out` the sources and the artifacts of the jobs that succeeded on it.
    """

    day: str
    jobs: int
    jobs_succeeded: int
    bytes_planned: int
    bytes_in: int
    bytes_out: int


class LimitsOut(TypedDict):
    """What a tenant may have. null: no limit."""

    running_jobs: int | None
    queued_jobs: int | None
    bytes_per_day: int | None
    requests_per_minute: int | None


class Quota(TypedDict):
    """Your limits, and how much of them is taken."""

    limits: LimitsOut
    used: Standing


class QuotaOverrides(TypedDict):
    """Limits that differ from the defaults. What is left out is the default's; null is no
    limit.
    """

    running_jobs: NotRequired[int | None]
    queued_jobs: NotRequired[int | None]
    bytes_per_day: NotRequired[int | None]
    requests_per_minute: NotRequired[int | None]


class Standing(TypedDict):
    """What a tenant has. `bytes_today` starts again at `reset_time`."""

    running_jobs: int
    queued_jobs: int
    bytes_today: int
    reset_time: str


class TenantQuota(TypedDict):
    """The limits of a tenant, and those among them that are its own."""

    tenant: str
    limits: LimitsOut
    overrides: dict[str, int | None]

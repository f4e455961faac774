"""Limits of tenants: kept, and held where jobs are accepted and begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from service.adapters.sql.access_tables import quotas, usage
from service.adapters.sql.engine import Database
from service.adapters.sql.tables import jobs
from service.domain.job import JobState
from service.domain.ports import Clock
from service.domain.quotas import DayUsage, Quota, Standing, end_of_day, exceeded

# When a queue that is full may have room again: nobody knows, so not too soon.
QUEUE_RETRY_S = 30
_COUNTED = ("jobs", "jobs_succeeded", "bytes_planned", "bytes_in", "bytes_out")


class SqlQuotas:
    """`Quotas`, with the limits of those who have none of their own."""

    def __init__(self, engine: Engine, clock: Clock, defaults: Quota) -> None:
        self._db, self._clock, self._defaults = Database(engine), clock, defaults

    def of(self, tenant: str) -> Quota:
        return self._defaults.overlaid(self.overrides(tenant))

    def overrides(self, tenant: str) -> dict[str, int | None]:
        with self._db.read() as connection:
            return _overrides(connection, tenant) or {}

    def override(self, tenant: str, limits: Mapping[str, int | None]) -> Quota:
        now = self._clock.now()
        with self._db.write() as connection:
            _make_row(connection, tenant, now)
            mine = update(quotas).where(quotas.c.tenant == tenant)
            connection.execute(mine.values(overrides=dict(limits), update_time=now))
        return self._defaults.overlaid(limits)

    def standing(self, tenant: str) -> Standing:
        now = self._clock.now()
        with self._db.read() as connection:
            return Standing(
                running_jobs=_count(connection, tenant, JobState.RUNNING),
                queued_jobs=_count(connection, tenant, JobState.QUEUED),
                bytes_today=_planned_today(connection, tenant, now),
                reset_time=end_of_day(now),
            )

    def usage(self, tenant: str, first: date, last: date) -> Sequence[DayUsage]:
        days = usage.c.day.between(first.isoformat(), last.isoformat())
        query = select(usage).where(usage.c.tenant == tenant, days).order_by(usage.c.day)
        with self._db.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            DayUsage(
                date.fromisoformat(row["day"]),
                row["jobs"],
                row["jobs_succeeded"],
                row["bytes_planned"],
                row["bytes_in"],
                row["bytes_out"],
            )
            for row in rows
        ]


def admit(
    connection: Connection, now: datetime, tenant: str, defaults: Quota, count: int, nbytes: int
) -> None:
    """Take up jobs of a tenant, in the transaction that stores them, or raise quota_exceeded.

    count   how many jobs enter the queue
    nbytes  the size of their sources, as far as it is known

    Until the transaction ends nobody else takes up jobs of this tenant, so the limits hold whoever
    asks at the same time.
    """
    quota = lock_tenant(connection, tenant, defaults, now)
    if quota.queued_jobs is not None:
        queued = _count(connection, tenant, JobState.QUEUED)
        if queued + count > quota.queued_jobs:
            raise exceeded(
                "queued_jobs",
                f"{queued} jobs wait already and {count} more would pass the limit of "
                f"{quota.queued_jobs}",
                "Wait until some have begun, or ask an operator for more.",
                QUEUE_RETRY_S,
            )
    if quota.bytes_per_day is not None:
        taken = _planned_today(connection, tenant, now)
        if taken + nbytes > quota.bytes_per_day:
            raise exceeded(
                "bytes_per_day",
                f"{taken} bytes of sources were accepted today and {nbytes} more would pass the "
                f"limit of {quota.bytes_per_day}",
                "Wait until midnight (UTC), or ask an operator for more.",
                (end_of_day(now) - now).total_seconds(),
            )
    note_usage(connection, tenant, now, jobs=count, bytes_planned=nbytes)


def may_begin(connection: Connection, now: datetime, tenant: str, defaults: Quota) -> bool:
    """Whether one more job of a tenant may run, in the transaction that begins it."""
    own = _overrides(connection, tenant) or {}
    if defaults.overlaid(own).running_jobs is None:
        return True  # nobody has to wait for anybody
    limit = lock_tenant(connection, tenant, defaults, now).running_jobs
    return limit is None or _count(connection, tenant, JobState.RUNNING) < limit


def full_tenants(connection: Connection, defaults: Quota) -> list[str]:
    """Tenants that may begin no further job now."""
    counts = select(jobs.c.tenant, func.count().label("running"))
    counts = counts.where(jobs.c.state == JobState.RUNNING).group_by(jobs.c.tenant)
    running = {row.tenant: row.running for row in connection.execute(counts)}
    if not running:
        return []
    rows = connection.execute(select(quotas).where(quotas.c.tenant.in_(list(running))))
    own = {row.tenant: row.overrides for row in rows}
    limits = {tenant: defaults.overlaid(own.get(tenant, {})).running_jobs for tenant in running}
    return [t for t, limit in limits.items() if limit is not None and running[t] >= limit]


def note_usage(connection: Connection, tenant: str, now: datetime, **amounts: int) -> None:
    """Add to what a tenant did today."""
    day = now.astimezone(UTC).date().isoformat()
    row = {"tenant": tenant, "day": day} | dict.fromkeys(_COUNTED, 0) | amounts
    insert = _insert(connection, usage).values(row)
    added = {name: usage.c[name] + insert.excluded[name] for name in amounts}
    connection.execute(insert.on_conflict_do_update(index_elements=["tenant", "day"], set_=added))


def lock_tenant(connection: Connection, tenant: str, defaults: Quota, now: datetime) -> Quota:
    """The limits of a tenant, whose row is held until the transaction ends."""
    own = _overrides(connection, tenant, lock=True)
    if own is None:
        _make_row(connection, tenant, now)
        own = _overrides(connection, tenant, lock=True)
    return defaults.overlaid(own or {})


def _make_row(connection: Connection, tenant: str, now: datetime) -> None:
    values = {"tenant": tenant, "overrides": {}, "update_time": now}
    connection.execute(_insert(connection, quotas).values(values).on_conflict_do_nothing())


def _overrides(
    connection: Connection, tenant: str, *, lock: bool = False
) -> dict[str, int | None] | None:
    query = select(quotas.c.overrides).where(quotas.c.tenant == tenant)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else row.overrides


def _count(connection: Connection, tenant: str, state: JobState) -> int:
    mine = (jobs.c.tenant == tenant, jobs.c.state == state)
    return connection.execute(select(func.count()).select_from(jobs).where(*mine)).scalar_one()


def _planned_today(connection: Connection, tenant: str, now: datetime) -> int:
    today = now.astimezone(UTC).date().isoformat()
    query = select(usage.c.bytes_planned).where(usage.c.tenant == tenant, usage.c.day == today)
    return connection.execute(query).scalar() or 0


def _insert(connection: Connection, table: Table) -> Any:
    """An INSERT that can say what happens where a row is there already."""
    postgres = connection.dialect.name == "postgresql"
    return postgres_insert(table) if postgres else sqlite_insert(table)

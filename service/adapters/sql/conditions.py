"""Conditions of jobs, read with them from the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, RowMapping, func, select

from service.adapters.sql.quotas import full_tenants
from service.adapters.sql.tables import UnitState, jobs, units
from service.domain.conditions import Condition, ConditionStatus, ConditionType
from service.domain.errors import CODES, Fault
from service.domain.job import JobState
from service.domain.quotas import Quota

Conditions = tuple[Condition, ...]
_MANY = 500  # values in one IN list
_AT_WORK = (JobState.RUNNING, JobState.CANCELLING)


def conditions_of(
    connection: Connection, rows: Sequence[RowMapping], now: datetime, limits: Quota
) -> dict[str, Conditions]:
    """The conditions of jobs, by id; those of whom nothing is to be said are left out."""
    found: dict[str, list[Condition]] = defaultdict(list)
    working = {row["id"]: row for row in rows if row["state"] in _AT_WORK}
    opened = _open_units(connection, list(working))
    for job_id, row in working.items():
        found[job_id] += _of_units(row, opened[job_id], now)
    for job_id, since in _held_by_quota(connection, rows, limits).items():
        found[job_id].append(_true(ConditionType.THROTTLED, "QUOTA", since))
    for row in rows:
        if row["degraded_time"] is not None:
            found[row["id"]].append(
                _true(ConditionType.DEGRADED_QUALITY, "FALLBACK", row["degraded_time"])
            )
    return {job_id: tuple(listed) for job_id, listed in found.items() if listed}


def _open_units(connection: Connection, job_ids: list[str]) -> dict[str, list[RowMapping]]:
    """Units that somebody holds, or that failed and will be tried again."""
    found: dict[str, list[RowMapping]] = defaultdict(list)
    columns = (
        units.c.job_id,
        units.c.state,
        units.c.lease_expires,
        units.c.error,
        units.c.error_time,
    )
    telling = (units.c.state == UnitState.LEASED) | units.c.error_time.is_not(None)
    for start in range(0, len(job_ids), _MANY):
        query = select(*columns).where(
            units.c.job_id.in_(job_ids[start : start + _MANY]),
            units.c.state.in_((UnitState.FREE, UnitState.LEASED)),
            telling,
        )
        for row in connection.execute(query).mappings():
            found[row["job_id"]].append(row)
    return found


def _of_units(job: RowMapping, opened: list[RowMapping], now: datetime) -> Iterable[Condition]:
    yield _responding(job, opened, now)
    failing = [
        row
        for row in opened
        if row["error_time"] is not None and CODES[row["error"]["code"]].fault is Fault.STORAGE
    ]
    if failing:
        first = min(failing, key=lambda row: (row["error_time"], row["error"]["code"]))
        yield _true(ConditionType.THROTTLED, first["error"]["code"].upper(), first["error_time"])


def _responding(job: RowMapping, opened: list[RowMapping], now: datetime) -> Condition:
    kind = ConditionType.WORKER_RESPONDING
    ends = [row["lease_expires"] for row in opened if row["state"] == UnitState.LEASED]
    if any(end > now for end in ends):
        return _true(kind, "LEASE_HELD", job["responding_since"] or job["start_time"])
    if ends:
        return Condition(kind, ConditionStatus.FALSE, "LEASE_EXPIRED", max(ends))
    # Given back, or not taken yet: nothing has changed since the job last did.
    return Condition(kind, ConditionStatus.UNKNOWN, "WAITING_FOR_WORKER", job["update_time"])


def _held_by_quota(
    connection: Connection, rows: Sequence[RowMapping], limits: Quota
) -> dict[str, datetime]:
    """Jobs that wait because their tenant runs as many as it may, and since when it does."""
    queued = [row for row in rows if row["state"] == JobState.QUEUED]
    if not queued:
        return {}
    full = set(full_tenants(connection, limits)) & {row["tenant"] for row in queued}
    if not full:
        return {}
    query = (
        select(jobs.c.tenant, func.max(jobs.c.start_time).label("last"))
        .where(jobs.c.state == JobState.RUNNING, jobs.c.tenant.in_(full))
        .group_by(jobs.c.tenant)
    )
    # Full since the last of those that run began.
    last = {row.tenant: row.last for row in connection.execute(query)}
    return {
        row["id"]: max(row["queue_time"] or row["create_time"], last[row["tenant"]])
        for row in queued
        if row["tenant"] in last
    }


def _true(kind: ConditionType, reason: str, since: datetime) -> Condition:
    return Condition(kind, ConditionStatus.TRUE, reason, since)

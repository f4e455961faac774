"""Figures of the whole ledger: a handful of grouped counts, none of which takes a lock."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, case, func, or_, select

from service.adapters.sql.engine import Database
from service.adapters.sql.tables import UnitState, jobs, units
from service.adapters.sql.webhook_tables import deliveries
from service.domain.figures import Figures, FigureSource
from service.domain.job import JobState
from service.domain.ports import Clock
from service.domain.webhooks import DeliveryState


class SqlFigures(FigureSource):
    """`FigureSource` on the ledger's tables."""

    def __init__(self, engine: Engine, clock: Clock, lease_s: float) -> None:
        self._db, self._clock, self._lease_s = Database(engine), clock, lease_s

    def read(self) -> Figures:
        now = self._clock.now()
        with self._db.read() as connection:
            queued = connection.execute(_queued()).all()
            held = connection.execute(_held(now)).one()
            rates = connection.execute(_rates()).one()
            hooks = connection.execute(_webhooks()).one()
            return Figures(
                jobs=_counts(connection, _by_state()),
                failed=_counts(connection, _by_code()),
                queued={priority: count for priority, count, _ in queued},
                oldest_queued_s={
                    p: max(0.0, (now - oldest).total_seconds()) for p, _, oldest in queued
                },
                claimable=_counts(connection, _claimable(now)),
                delayed=int(held.delayed or 0),
                leased=int(held.leased or 0),
                lease_age_s=self._age(held.first_end, now),
                overdue=int(held.overdue or 0),
                rss_max_bytes=int(held.rss or 0),
                bytes_per_s=float(rates.bytes or 0.0),
                tensors_per_s=float(rates.tensors or 0.0),
                webhooks_pending=int(hooks.pending),
                webhook_age_s=_since(hooks.due, now),
            )

    def _age(self, first_end: datetime | None, now: datetime) -> float:
        """Every beat sets the lease to end a fixed time later, so its end tells the last beat."""
        if first_end is None:
            return 0.0
        return max(0.0, self._lease_s - (first_end - now).total_seconds())


def _since(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


def _counts(connection: Connection, query: Select[Any]) -> dict[Any, int]:
    found: dict[Any, int] = dict(connection.execute(query).all())
    return found


def _by_state() -> Select[Any]:
    return select(jobs.c.state, func.count()).group_by(jobs.c.state)


def _by_code() -> Select[Any]:
    code = jobs.c.error["code"].as_string()
    return select(code, func.count()).where(jobs.c.state == JobState.FAILED).group_by(code)


def _queued() -> Select[Any]:
    # Nothing changes a job while it waits, so it has waited since its last change.
    return (
        select(jobs.c.priority, func.count(), func.min(jobs.c.update_time))
        .where(jobs.c.state == JobState.QUEUED)
        .group_by(jobs.c.priority)
    )


def _overdue(now: datetime) -> ColumnElement[bool]:
    return and_(units.c.state == UnitState.LEASED, units.c.lease_expires <= now)


def _claimable(now: datetime) -> Select[Any]:
    due = or_(units.c.not_before.is_(None), units.c.not_before <= now)
    free = and_(units.c.state == UnitState.FREE, due)
    return (
        select(jobs.c.priority, func.count())
        .join(units, units.c.job_id == jobs.c.id)
        .where(or_(free, _overdue(now)))
        .group_by(jobs.c.priority)
    )


def _held(now: datetime) -> Select[Any]:
    leased = units.c.state == UnitState.LEASED
    delayed = and_(units.c.state == UnitState.FREE, units.c.not_before > now)
    return select(
        func.sum(case((delayed, 1), else_=0)).label("delayed"),
        func.sum(case((leased, 1), else_=0)).label("leased"),
        func.sum(case((_overdue(now), 1), else_=0)).label("overdue"),
        func.min(case((leased, units.c.lease_expires))).label("first_end"),
        func.max(case((leased, units.c.rss_bytes))).label("rss"),
    ).where(units.c.state.in_((UnitState.FREE.value, UnitState.LEASED.value)))


def _rates() -> Select[Any]:
    gained = (jobs.c.bytes_done - jobs.c.bytes_before) / jobs.c.active_s
    finished = jobs.c.tensors_done / jobs.c.active_s
    sums: list[ColumnElement[Any]] = [
        func.sum(gained).label("bytes"),
        func.sum(finished).label("tensors"),
    ]
    return select(*sums).where(jobs.c.state == JobState.RUNNING, jobs.c.active_s > 0)


def _webhooks() -> Select[Any]:
    found: list[ColumnElement[Any]] = [
        func.count().label("pending"),
        func.min(deliveries.c.next_time).label("due"),
    ]
    return select(*found).where(deliveries.c.state == DeliveryState.PENDING)

"""Worker processes and queues on the ledger's database."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine, RowMapping, case, delete, func, insert, select, update

from service.adapters.sql.engine import Database
from service.adapters.sql.fleet_tables import workers
from service.adapters.sql.lanes import claimable
from service.adapters.sql.tables import UnitState, jobs, units
from service.domain.errors import ArrowQuantError
from service.domain.fleet import (
    Fleet,
    HeldUnit,
    Holder,
    Queue,
    TenantQueue,
    WorkerRecord,
    WorkerState,
    id_of,
)
from service.domain.job import PRIORITIES, JobState, UnitKind, Worker
from service.domain.ports import Clock

FORGET_AFTER: Final = timedelta(hours=1)


class SqlFleet(Fleet):
    """`Fleet` on the ledger's tables."""

    def __init__(self, engine: Engine, clock: Clock, lease_s: float) -> None:
        self._db, self._clock, self._lease_s = Database(engine), clock, lease_s

    def beat(self, worker: Worker, version: str, rss_bytes: int, *, draining: bool) -> bool:
        now, this = self._clock.now(), workers.c.id == id_of(worker.name)
        with self._db.write() as connection:
            known = connection.execute(select(workers.c.drain_time).where(this)).one_or_none()
            values: dict[str, Any] = {"heartbeat_time": now, "rss_bytes": rss_bytes}
            if draining and (known is None or known.drain_time is None):
                values["drain_time"] = now
            if known is not None:
                connection.execute(update(workers).where(this).values(values))
                return draining or known.drain_time is not None
            values |= {"id": id_of(worker.name), "name": worker.name, "host": worker.host}
            values |= {"pid": worker.pid, "version": version, "start_time": now}
            connection.execute(insert(workers).values(values))
            return draining

    def leave(self, worker: Worker) -> None:
        with self._db.write() as connection:
            connection.execute(delete(workers).where(workers.c.id == id_of(worker.name)))

    def workers(self, after: str = "", limit: int | None = None) -> list[WorkerRecord]:
        query = select(workers).where(workers.c.id > after).order_by(workers.c.id).limit(limit)
        with self._db.read() as connection:
            rows = connection.execute(query).mappings().all()
            held = connection.execute(_held()).mappings().all()
        by_name = {unit["owner_name"]: _unit(unit) for unit in held}
        return [self._record(row, by_name.get(row["name"])) for row in rows]

    def worker(self, worker_id: str) -> WorkerRecord:
        with self._db.read() as connection:
            row = (
                connection.execute(select(workers).where(workers.c.id == worker_id))
                .mappings()
                .first()
            )
            if row is None:
                raise ArrowQuantError(
                    "not_found", "there is no such worker", where={"worker": worker_id}
                )
            held = _held().where(units.c.owner_name == row["name"])
            unit = connection.execute(held).mappings().first()
        return self._record(row, _unit(unit) if unit else None)

    def drain(self, worker_id: str) -> WorkerRecord:
        open_ = (workers.c.id == worker_id, workers.c.drain_time.is_(None))
        with self._db.write() as connection:
            connection.execute(update(workers).where(*open_).values(drain_time=self._clock.now()))
        return self.worker(worker_id)

    def holders(self, job_id: str) -> list[Holder]:
        now = self._clock.now()
        query = (
            select(units)
            .where(units.c.job_id == job_id, units.c.state == UnitState.LEASED.value)
            .where(units.c.lease_expires > now)
            .order_by(units.c.kind, units.c.seq)
        )
        with self._db.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [self._holder(row) for row in rows]

    def queues(self) -> list[Queue]:
        now = self._clock.now()
        counts: dict[int, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        with self._db.read() as connection:
            for row in connection.execute(_open_units(now)).mappings():
                counts[row["priority"]][row["tenant"]] |= row
            for row in connection.execute(_waiting()).mappings():
                counts[row["priority"]][row["tenant"]] |= row
        priorities = {*counts, *PRIORITIES.values()}
        return [_queue(priority, counts[priority], now) for priority in sorted(priorities)][::-1]

    def forget_lost(self) -> int:
        old = workers.c.heartbeat_time <= self._clock.now() - FORGET_AFTER
        with self._db.read() as connection:
            if connection.execute(select(workers.c.id).where(old).limit(1)).first() is None:
                return 0
        with self._db.write() as connection:
            return connection.execute(delete(workers).where(old)).rowcount

    def _holder(self, row: RowMapping) -> Holder:
        return Holder(
            id=id_of(row["owner_name"]),
            host=row["owner_host"],
            kind=UnitKind(row["kind"]),
            seq=row["seq"],
            # Every beat sets the lease to end a fixed time later.
            heartbeat_time=row["lease_expires"] - timedelta(seconds=self._lease_s),
            rss_bytes=row["rss_bytes"],
        )

    def _record(self, row: RowMapping, unit: HeldUnit | None) -> WorkerRecord:
        age = max(0.0, (self._clock.now() - row["heartbeat_time"]).total_seconds())
        if age > self._lease_s:
            state = WorkerState.LOST
        elif row["drain_time"] is not None:
            state = WorkerState.DRAINING if unit else WorkerState.DRAINED
        else:
            state = WorkerState.BUSY if unit else WorkerState.IDLE
        return WorkerRecord(state=state, heartbeat_age_s=age, unit=unit, **row)


def _held() -> Any:
    columns = ("owner_name", "job_id", "tenant", "kind", "seq", "lease_expires")
    return select(*(units.c[name] for name in columns)).where(
        units.c.state == UnitState.LEASED.value
    )


def _unit(row: RowMapping) -> HeldUnit:
    kind = UnitKind(row["kind"])
    return HeldUnit(row["job_id"], row["tenant"], kind, row["seq"], row["lease_expires"])


def _open_units(now: datetime) -> Any:
    due = claimable(now)
    leased = (units.c.state == UnitState.LEASED.value) & ~due
    return (
        select(
            jobs.c.priority,
            jobs.c.tenant,
            func.sum(case((due, 1), else_=0)).label("depth"),
            func.sum(case((leased, 1), else_=0)).label("leased"),
            func.sum(case((~due & ~leased, 1), else_=0)).label("delayed"),
        )
        .join(units, units.c.job_id == jobs.c.id)
        .where(units.c.state.in_((UnitState.FREE.value, UnitState.LEASED.value)))
        .group_by(jobs.c.priority, jobs.c.tenant)
    )


def _waiting() -> Any:
    since = func.coalesce(jobs.c.queue_time, jobs.c.create_time)
    return (
        select(
            jobs.c.priority,
            jobs.c.tenant,
            func.count().label("jobs"),
            func.min(since).label("oldest"),
        )
        .where(jobs.c.state == JobState.QUEUED.value)
        .group_by(jobs.c.priority, jobs.c.tenant)
    )


def _queue(priority: int, found: dict[str, dict[str, Any]], now: datetime) -> Queue:
    tenants = [
        TenantQueue(
            tenant=tenant,
            **{name: int(row.get(name) or 0) for name in ("depth", "delayed", "leased", "jobs")},
            oldest_age_s=_age(row.get("oldest"), now),
        )
        for tenant, row in sorted(found.items())
    ]
    ages = [one.oldest_age_s for one in tenants if one.oldest_age_s is not None]
    return Queue(
        priority=priority,
        depth=sum(one.depth for one in tenants),
        delayed=sum(one.delayed for one in tenants),
        leased=sum(one.leased for one in tenants),
        jobs=sum(one.jobs for one in tenants),
        oldest_age_s=max(ages, default=None),
        tenants=tenants,
    )


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else max(0.0, round((now - since).total_seconds(), 3))

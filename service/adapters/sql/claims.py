"""Taking a unit of work, keeping it, giving it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import RowMapping, Select, and_, case, not_, select

from service.adapters.sql.lanes import claimable, lane_of, next_job
from service.adapters.sql.levels import unit_todo
from service.adapters.sql.life import NO_LEASE, fail, finish_cleanup, note_progress
from service.adapters.sql.locked import LockedJob, Verbs, read_unit
from service.adapters.sql.quotas import full_tenants, may_begin
from service.adapters.sql.tables import UnitState, jobs, units
from service.domain.errors import ArrowQuantError
from service.domain.job import (
    Claim,
    EventType,
    JobState,
    Phase,
    UnitKind,
    Usage,
    Worker,
)


class ClaimVerbs(Verbs):
    """Leases. A unit is held by whoever knows its present fence."""

    def claim(self, worker: Worker, job_id: str | None = None) -> Claim | None:
        # Looking takes no lock: idle workers ask every second.
        while (target := self._target(job_id)) is not None:
            if (claim := self._try_to_claim(worker, target)) is not None:
                return claim
            # Someone else was faster, or the unit had failed too often: look again.
        return None

    def has_work(self) -> bool:
        return self._target(None) is not None

    def heartbeat(
        self,
        claim: Claim,
        bytes_done: int = 0,
        rss_bytes: int = 0,
        bytes_read: int = 0,
        used: Usage | None = None,
    ) -> None:
        # A beat that crosses the unit's own end is no reason for alarm.
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if used is not None:
                _use(job, used, rss_bytes)
            if unit["state"] == UnitState.DONE:
                return
            _write(
                job,
                unit,
                lease_expires=job.now + timedelta(seconds=self._lease_s),
                bytes_done=min(max(bytes_done, 0), unit["source_bytes"]),
                rss_bytes=rss_bytes,
                bytes_read=unit["bytes_read_before"] + max(bytes_read, 0),
            )
            if claim.kind in (UnitKind.ANALYZE, UnitKind.QUANTIZE):
                note_progress(job, self._lease_s)

    def release(self, claim: Claim, delay_s: float, error: ArrowQuantError | None = None) -> None:
        with self._held(claim) as (job, unit):
            # Handing back without an error is courtesy (a worker shuts down), not a failed try.
            attempts = unit["attempts"] if error else max(0, unit["attempts"] - 1)
            _write(
                job,
                unit,
                **_given_back(unit),
                attempts=attempts,
                not_before=job.now + timedelta(seconds=delay_s),
                error=error.as_dict() if error else unit["error"],
                error_time=(unit["error_time"] or job.now) if error else unit["error_time"],
            )
            if error:
                data = error.as_dict() | {
                    "unit": {"kind": claim.kind.value, "seq": claim.seq},
                    "try": unit["attempts"],
                    "retry_in_s": delay_s,
                }
                job.emit(EventType.WARNING, data)

    def release_dead(self, host: str, alive: Sequence[int]) -> int:
        query = select(units.c.job_id, units.c.kind, units.c.seq, units.c.fence, units.c.owner_pid)
        query = query.where(units.c.state == UnitState.LEASED, units.c.owner_host == host)
        with self._db.read() as connection:
            leases = connection.execute(query).all()
        return sum(
            self._release_if_still(lease.job_id, UnitKind(lease.kind), lease.seq, lease.fence)
            for lease in leases
            if lease.owner_pid not in alive
        )

    def _release_if_still(self, job_id: str, kind: UnitKind, seq: int, fence: int) -> bool:
        with self._open(job_id) as job:
            unit = read_unit(job, kind, seq)
            still = bool(unit["state"] == UnitState.LEASED and unit["fence"] == fence)
            if still:
                _write(job, unit, **_given_back(unit))
            return still

    def _target(self, job_id: str | None) -> str | None:
        """The job to take a unit of."""
        now = self._clock.now()
        with self._db.read() as connection:
            full = full_tenants(connection, self._quota)
            if job_id is None:
                return next_job(connection, now, full)
            query = select(units.c.job_id).where(units.c.job_id == job_id, claimable(now))
            if full:
                waits = and_(jobs.c.state == JobState.QUEUED, jobs.c.tenant.in_(full))
                query = query.join(jobs, jobs.c.id == units.c.job_id).where(not_(waits))
            return connection.execute(query.limit(1)).scalar()

    def _try_to_claim(self, worker: Worker, job_id: str) -> Claim | None:
        with self._open_if_there(job_id) as job:
            if job is None:
                return None
            unit = job.connection.execute(_next_unit(job)).mappings().first()
            return self._take(job, unit, worker) if unit is not None else None

    def _note_presence(self, job: LockedJob, unit: RowMapping) -> None:
        """Since when workers have been at it without a break: a lease that ran out is one, and so
        is a time in which nobody came."""
        nobody = (job.now - job["update_time"]).total_seconds() > self._lease_s
        if job.state is JobState.QUEUED or unit["state"] == UnitState.LEASED or nobody:
            job.set(responding_since=job.now)

    def _take(self, job: LockedJob, unit: RowMapping, worker: Worker) -> Claim | None:
        kind = UnitKind(unit["kind"])
        if unit["attempts"] >= self._rules.max_attempts:
            _give_up(job, unit)
            return None
        if job.state is JobState.QUEUED and not may_begin(
            job.connection, job.now, job["tenant"], self._quota
        ):
            return None  # another job of the tenant has begun since we looked
        self._note_presence(job, unit)
        _write(
            job,
            unit,
            state=UnitState.LEASED,
            lane=lane_of(kind, job["priority"], job["tenant"]),
            fence=unit["fence"] + 1,
            attempts=unit["attempts"] + 1,
            not_before=None,
            lease_expires=job.now + timedelta(seconds=self._lease_s),
            owner_name=worker.name,
            owner_host=worker.host,
            owner_pid=worker.pid,
            bytes_done=0,
            bytes_read_before=unit["bytes_read"],
        )
        _start(job, kind)
        return Claim(
            job_id=job.id,
            tenant=job["tenant"],
            kind=kind,
            seq=unit["seq"],
            fence=unit["fence"] + 1,
            attempt=unit["attempts"],
            request=job["request"],
            resolved=job["resolved"],
            trace=job["trace"],
            todo=unit_todo(job, unit["seq"]) if kind is UnitKind.QUANTIZE else {},
        )


def _use(job: LockedJob, used: Usage, rss_bytes: int) -> None:
    names = ("cpu_s", "wall_s", "bytes_in", "bytes_out")
    job.set(**{name: job[name] + max(0, getattr(used, name)) for name in names})
    job.set(peak_rss_bytes=max(job["peak_rss_bytes"], rss_bytes))


def _start(job: LockedJob, kind: UnitKind) -> None:
    """What the first claim of a kind says about the job."""
    if job.state is JobState.QUEUED:
        longest = job["max_runtime_s"]
        job.move(
            JobState.RUNNING,
            Phase.PLANNING,
            start_time=job.now,
            deadline=job.now + timedelta(seconds=longest) if longest is not None else None,
        )
    elif kind is UnitKind.PUBLISH and job["phase"] == Phase.QUANTIZING:
        job.enter(Phase.VERIFYING)


def _give_up(job: LockedJob, unit: RowMapping) -> None:
    last = unit["error"] or {}
    why = f"; the last error was {last['code']}: {last['message']}" if last else ""
    error = ArrowQuantError(
        "attempts_exhausted",
        f"a unit of work was tried {unit['attempts']} times and never finished{why}",
        "Look at the workers' logs; retry continues from the units that are done.",
        {"kind": unit["kind"], "unit": unit["seq"]},
    )
    if unit["kind"] == UnitKind.CLEANUP:
        finish_cleanup(job, error.as_dict())
    else:
        fail(job, error)


def _given_back(unit: RowMapping) -> dict[str, Any]:
    return NO_LEASE | {"state": UnitState.FREE, "fence": unit["fence"] + 1, "bytes_done": 0}


def _write(job: LockedJob, unit: RowMapping, **values: Any) -> None:
    """Compare-and-set on the fence."""
    mine = and_(units.c.seq == unit["seq"], units.c.fence == unit["fence"])
    change = job.update_units(UnitKind(unit["kind"])).where(mine).values(values)
    if job.connection.execute(change).rowcount != 1:
        raise AssertionError(f"unit {unit['seq']} of {job.id} changed under its job's lock")


def _next_unit(job: LockedJob) -> Select[Any]:
    return (
        select(units)
        .where(units.c.job_id == job.id, claimable(job.now))
        .order_by(case((units.c.kind == UnitKind.CLEANUP, 0), else_=1), units.c.seq)
        .limit(1)
    )

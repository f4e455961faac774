"""What happens to a job's units when the job fails, is cancelled, or has nothing left to do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select

from service import tracing
from service.adapters.sql.locked import LockedJob
from service.adapters.sql.records import progress_data, to_progress
from service.adapters.sql.tables import UnitState, parts, tensors, units
from service.domain.errors import ArrowQuantError
from service.domain.job import EventType, JobState, Phase, TensorState, UnitKind

PROGRESS_EVENT_SECONDS = 1.0
NO_LEASE: dict[str, Any] = {
    "lease_expires": None,
    "owner_name": None,
    "owner_host": None,
    "owner_pid": None,
    "rss_bytes": 0,
}
NO_ERROR: dict[str, Any] = {"error": None, "error_time": None}
UNTRIED: dict[str, Any] = NO_LEASE | NO_ERROR | {"attempts": 0, "not_before": None}


# Both read the source: a budget's analysis is half of the bytes that a job has to do.
_COUNTED = (UnitKind.ANALYZE.value, UnitKind.QUANTIZE.value)
_BEFORE_PARTS = (
    (UnitKind.ANALYZE, Phase.ANALYZING),
    (UnitKind.ALLOCATE, Phase.ALLOCATING),
)


def fail(job: LockedJob, error: ArrowQuantError) -> None:
    """FAILED: every lease ends; what was half written waits to be cleaned up."""
    value = error.as_dict() | {
        "phase": job["phase"],
        "attempt": job["attempt"],
        "trace_id": tracing.id_of(job["trace"]),
    }
    if job["phase"]:
        value["where"].setdefault("phase", job["phase"])
    hold_units(job)
    free_cleanup(job)
    job.move(JobState.FAILED, error=value)


def hold_units(job: LockedJob) -> None:
    """End every lease and make nothing claimable. Finished units stay finished."""
    job.connection.execute(
        job.update_units(*UnitKind)
        .where(units.c.state != UnitState.DONE)
        # A new fence, so that no former holder ever passes for the present one.
        .values(NO_LEASE | {"state": UnitState.HELD, "fence": units.c.fence + 1})
    )


def free_cleanup(job: LockedJob, not_before: datetime | None = None) -> None:
    free = UNTRIED | {"state": UnitState.FREE, "not_before": not_before}
    job.connection.execute(job.update_units(UnitKind.CLEANUP).values(free))


def finish_cleanup(job: LockedJob, warning: dict[str, Any] | None = None) -> None:
    """Nothing is left to clean up, or nobody could."""
    job.connection.execute(
        job.update_units(UnitKind.CLEANUP).values(NO_LEASE | {"state": UnitState.DONE})
    )
    if warning:
        job.set(warnings=[*job["warnings"], warning])
        job.emit(EventType.WARNING, warning)
    if job.state is JobState.CANCELLING:
        job.move(JobState.CANCELLED)


def settle(job: LockedJob) -> None:
    """Make PUBLISH claimable once the plan is there and every unit is done."""
    if job["planned"] and job["units_done"] == job["units_total"]:
        job.connection.execute(
            job.update_units(UnitKind.PUBLISH)
            .where(units.c.state == UnitState.HELD)
            .values(NO_LEASE | {"state": UnitState.FREE, "not_before": None})
        )


def advance(job: LockedJob) -> None:
    """Make the next kind of work claimable: what a budget has measured first, then the allocation,
    then the parts."""
    for kind, phase in _BEFORE_PARTS:
        mine = units.c.job_id == job.id, units.c.kind == kind.value
        undone = select(units.c.seq).where(*mine, units.c.state != UnitState.DONE).limit(1)
        if job.connection.execute(undone).first() is not None:
            _begin(job, kind, phase)
            return
    _begin(job, UnitKind.QUANTIZE, Phase.QUANTIZING)
    settle(job)


def _begin(job: LockedJob, kind: UnitKind, phase: Phase) -> None:
    held = job.update_units(kind).where(units.c.state == UnitState.HELD)
    job.connection.execute(held.values({"state": UnitState.FREE}))
    job.enter(phase)


def count_units(job: LockedJob) -> None:
    """Bring the counters of units and bytes up to date; `bytes_done` never falls."""
    done = units.c.state == UnitState.DONE
    query = select(
        func.count().label("total"),
        func.coalesce(func.sum(case((done, 1), else_=0)), 0).label("finished"),
        func.coalesce(func.sum(units.c.source_bytes), 0).label("bytes_total"),
        func.coalesce(func.sum(units.c.bytes_done), 0).label("bytes_done"),
    ).where(units.c.job_id == job.id, units.c.kind.in_(_COUNTED))
    row = job.connection.execute(query).one()
    read = select(func.sum(units.c.bytes_read)).where(units.c.job_id == job.id)
    written = select(func.sum(parts.c.nbytes)).where(parts.c.job_id == job.id)
    job.set(
        bytes_read=int(job.connection.execute(read).scalar() or 0),
        bytes_written=int(job.connection.execute(written).scalar() or 0),
        units_total=int(row.total),
        units_done=int(row.finished),
        bytes_total=int(row.bytes_total),
        bytes_done=max(job["bytes_done"], int(row.bytes_done)),
    )


def count_tensors(job: LockedJob) -> None:
    query = (
        select(tensors.c.state, func.count())
        .where(tensors.c.job_id == job.id)
        .group_by(tensors.c.state)
    )
    counts: dict[str, int] = dict(job.connection.execute(query).all())
    total = sum(counts.values())
    fallback = counts.get(TensorState.FALLBACK, 0)
    job.set(
        degraded_time=(job["degraded_time"] or job.now) if fallback else None,
        tensors_total=total,
        tensors_done=total - counts.get(TensorState.PENDING, 0),
        tensors_kept=counts.get(TensorState.KEPT, 0),
        tensors_fallback=fallback,
    )


def note_progress(job: LockedJob, longest_gap_s: float) -> None:
    """Count, keep the time at work, and say so at most once a second.

    A gap longer than a lease means that nobody was there: it does not slow the rate down.
    """
    before = {name: job[name] for name in ("bytes_done", "units_done", "bytes_written")}
    count_units(job)
    gap = (job.now - (job["progress_time"] or job.now)).total_seconds()
    job.set(
        active_s=job["active_s"] + min(max(gap, 0.0), longest_gap_s),
        progress_time=job.now,
    )
    last = job["progress_event_time"]
    due = last is None or (job.now - last).total_seconds() >= PROGRESS_EVENT_SECONDS
    due = due or job["units_done"] == job["units_total"]  # the last word of a short job
    if due and any(job[name] != value for name, value in before.items()):
        job.emit(EventType.PROGRESS, progress_data(to_progress(job.row)))
        job.set(progress_event_time=job.now)

"""The front end's verbs that change a job: create, cancel, retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Table, insert
from sqlalchemy.exc import IntegrityError

from service.adapters.sql.lanes import lane_of
from service.adapters.sql.life import UNTRIED, count_units, free_cleanup, hold_units
from service.adapters.sql.locked import Verbs
from service.adapters.sql.places import place_of, places_of
from service.adapters.sql.quotas import admit
from service.adapters.sql.tables import UnitState, events, jobs, labels, places, units
from service.domain.errors import ArrowQuantError
from service.domain.job import EventType, JobRecord, JobState, UnitKind
from service.domain.ports import NewJob


class JobVerbs(Verbs):
    """Changes that a caller asks for."""

    def create_job(self, job: NewJob) -> JobRecord:
        rows = job_rows(job, self._clock.now())
        with _one_writer(place_of(job)), self._db.write() as connection:
            admit(connection, self._clock.now(), job.tenant, self._quota, 1, job.source_bytes or 0)
            for table, some in rows.items():
                if some:
                    connection.execute(insert(table), some)
            return self._lock(connection, job.id).record()

    def cancel_job(self, job_id: str, tenant: str | None = None) -> JobRecord:
        with self._open(job_id, tenant) as job:
            match job.state:
                case JobState.QUEUED:
                    hold_units(job)
                    if job["attempt"] > 1:
                        # The failed try may have left uploads behind.
                        free_cleanup(job)
                    job.move(JobState.CANCELLED)
                case JobState.RUNNING:
                    hold_units(job)
                    free_cleanup(job)
                    job.move(JobState.CANCELLING)
                case JobState.CANCELLING | JobState.CANCELLED:
                    pass
                case state:
                    raise ArrowQuantError(
                        "job_terminal",
                        f"the job is {state} already",
                        "There is nothing left to cancel.",
                        {"job": job_id},
                    )
            return job.record()

    def retry_job(self, job_id: str, tenant: str | None = None) -> JobRecord:
        with self._open(job_id, tenant) as job:
            _check_retryable(job_id, job.state)
            # Its bytes were counted when it was accepted.
            admit(job.connection, job.now, job["tenant"], self._quota, 1, 0)
            with _one_writer(job["output"]):
                if taken := _taken(job.id, job["output"], job["resolved"]):
                    job.connection.execute(insert(places), taken)
            hold_units(job)
            job.connection.execute(job.update_units(*UnitKind).values(queue_time=job.now))
            again = UNTRIED | {"bytes_done": 0}
            undone = job.update_units(*UnitKind).where(units.c.state != UnitState.DONE)
            job.connection.execute(undone.values(again))
            # The plan is made once more: the source may have changed since.
            lane = lane_of(UnitKind.PLAN, job["priority"], job["tenant"], waiting=True)
            first = again | {"state": UnitState.FREE, "lane": lane}
            job.connection.execute(job.update_units(UnitKind.PLAN).values(first))
            cleanup = job.update_units(UnitKind.CLEANUP).values({"state": UnitState.HELD})
            job.connection.execute(cleanup)
            # A new life starts from what is really there, not from the last one's high-water mark.
            job.set(bytes_done=0, active_s=0.0, progress_time=None)
            count_units(job)
            job.set(bytes_before=job["bytes_done"])
            job.move(
                JobState.QUEUED,
                attempt=job["attempt"] + 1,
                error=None,
                start_time=None,
                end_time=None,
                expire_time=None,
                queue_time=job.now,
                deadline=_after(job.now, job["max_pending_s"]),
            )
            return job.record()


def _after(moment: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else moment + timedelta(seconds=seconds)


def job_rows(job: NewJob, now: datetime) -> dict[Table, list[dict[str, Any]]]:
    """All rows of a new job, by table, in the order in which they can be inserted."""
    values: dict[str, Any] = {
        "id": job.id,
        "tenant": job.tenant,
        "name": job.name,
        "labels": job.labels,
        "priority": job.priority,
        "state": JobState.QUEUED.value,
        "attempt": 1,
        "request": job.request,
        "resolved": job.resolved,
        "output": place_of(job),
        "planned": False,
        "warnings": [],
        "max_runtime_s": job.max_runtime_s,
        "max_pending_s": job.max_pending_s,
        "deadline": _after(now, job.max_pending_s),
        "retain_days": job.retain_days,
        "retain_artifacts": job.retain_artifacts,
        "batch_id": job.batch_id,
        "trace": job.trace,
        "counted_bytes": job.source_bytes,
        "create_time": now,
        "queue_time": now,
        "update_time": now,
        "event_seq": 1,
    }
    first = {"job_id": job.id, "seq": 1, "type": EventType.STATE.value, "time": now}
    return {
        jobs: [values],
        places: _taken(job.id, place_of(job), job.resolved),
        labels: [{"job_id": job.id, "key": k, "value": v} for k, v in job.labels.items()],
        # The single units are there from the start, so that they are only ever updated.
        units: [
            _single_unit(job, UnitKind.PLAN, UnitState.FREE, now),
            _single_unit(job, UnitKind.PUBLISH, UnitState.HELD, now),
            _single_unit(job, UnitKind.CLEANUP, UnitState.HELD, now),
        ],
        events: [
            first | {"data": {"state": JobState.QUEUED.value, "phase": None, "attempt": 1}},
        ],
    }


def _taken(job_id: str, output: str | None, resolved: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the places of a job that has not ended: one for each of its outputs."""
    # In one order, so that nobody waits in a circle.
    return [{"sha256": digest, "job_id": job_id} for digest in sorted(places_of(output, resolved))]


@contextmanager
def _one_writer(what: str | None) -> Iterator[None]:
    """Name the refusal of the table that lets one active job write to a place."""
    try:
        yield
    except IntegrityError as error:
        if "places" not in str(error.orig):
            raise
        raise ArrowQuantError(
            "output_in_use",
            "another job that has not ended writes to the same output",
            "Wait for it or cancel it, or choose another prefix.",
            {"output": what},
        ) from None


def _single_unit(job: NewJob, kind: UnitKind, state: UnitState, now: datetime) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "kind": kind.value,
        "seq": 0,
        "tenant": job.tenant,
        "state": state.value,
        "lane": lane_of(kind, job.priority, job.tenant, waiting=True),
        "create_time": now,
        "queue_time": now,
    }


def _check_retryable(job_id: str, state: JobState) -> None:
    if state in (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED):
        return
    if state is JobState.SUCCEEDED:
        code, hint = "job_terminal", "Submit it as a new job."
    else:
        code, hint = "job_active", "Wait until it has ended, or cancel it first."
    raise ArrowQuantError(code, f"the job is {state}", hint, {"job": job_id})

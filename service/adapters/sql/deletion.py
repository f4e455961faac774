"""Deleting jobs: at once for everyone who asks, then piece by piece.

A deleted job is marked, and from then on not found. Its CLEANUP unit, if there is something to tidy
up in the object store, is done by a worker like any other. Only when no such unit is open do the
rows go, a few thousand in a transaction: whoever dies in between leaves the mark, and the next sweep
goes on from there.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table, delete, exists, select, tuple_

from service.adapters.sql.batch_lines import keep_outcomes
from service.adapters.sql.life import free_cleanup, hold_units
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.tables import UnitState, jobs, metadata, units
from service.domain.errors import ArrowQuantError
from service.domain.job import TERMINAL, UnitKind

ROWS_AT_ONCE: Final = 5000
JOBS_AT_ONCE: Final = 50


class DeletionVerbs(Verbs):
    """The end of jobs that have ended."""

    def delete_job(self, job_id: str, tenant: str | None, *, artifacts: bool) -> None:
        with self._open(job_id, tenant) as job:
            if job.state not in TERMINAL:
                raise ArrowQuantError(
                    "job_active",
                    f"the job is {job.state}",
                    "Cancel it first, or wait until it has ended.",
                    {"job": job_id},
                )
            _mark(job, artifacts=artifacts)

    def _delete_expired(self) -> int:
        due = (jobs.c.expire_time <= self._clock.now(), jobs.c.delete_time.is_(None))
        query = select(jobs.c.id).where(*due).limit(JOBS_AT_ONCE)
        with self._db.read() as connection:
            found = connection.execute(query).scalars().all()
        return sum(self._delete_if_expired(job_id) for job_id in found)

    def _delete_if_expired(self, job_id: str) -> bool:
        with self._open_if_there(job_id) as job:
            if job is None or job["delete_time"] is not None:
                return False
            expires = job["expire_time"]
            due = bool(job.state in TERMINAL and expires is not None and expires <= job.now)
            if due:
                _mark(job, artifacts=job["retain_artifacts"] is False)
            return due

    def _erase_deleted(self) -> int:
        """Remove rows of deleted jobs that nobody has to tidy up after; how many jobs went."""
        tidying = exists().where(
            units.c.job_id == jobs.c.id,
            units.c.kind == UnitKind.CLEANUP.value,
            units.c.state.in_([UnitState.FREE.value, UnitState.LEASED.value]),
        )
        query = select(jobs.c.id).where(jobs.c.delete_time.is_not(None), ~tidying)
        with self._db.read() as connection:
            found = connection.execute(query.limit(JOBS_AT_ONCE)).scalars().all()
        return sum(self._erase(job_id) for job_id in found)

    def _erase(self, job_id: str) -> int:
        for table in _belonging_to_jobs():
            while self._erase_some(table, job_id) == ROWS_AT_ONCE:
                pass
        with self._db.write() as connection:
            keep_outcomes(connection, [job_id])
            return connection.execute(delete(jobs).where(jobs.c.id == job_id)).rowcount

    def _erase_some(self, table: Table, job_id: str) -> int:
        key = tuple(table.primary_key.columns)
        some = select(*key).where(table.c.job_id == job_id).limit(ROWS_AT_ONCE)
        with self._db.write() as connection:
            return connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount


def _mark(job: LockedJob, *, artifacts: bool) -> None:
    """Gone from now on. A CLEANUP that is open anyway goes on; with `artifacts` there is one."""
    job.set(delete_time=job.now, delete_artifacts=artifacts, expire_time=None)
    if artifacts:
        hold_units(job)
        free_cleanup(job)


def _belonging_to_jobs() -> list[Table]:
    """Tables whose rows go with their job, those that point to others first."""
    return [
        table
        for table in reversed(metadata.sorted_tables)
        if "job_id" in table.c and any(key.ondelete == "CASCADE" for key in table.foreign_keys)
    ]

"""What has to happen although nobody asks for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select

from service.adapters.sql.deletion import JOBS_AT_ONCE, DeletionVerbs
from service.adapters.sql.life import fail, free_cleanup, hold_units
from service.adapters.sql.locked import LockedJob
from service.adapters.sql.tables import idempotency, jobs
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState

KEEP_ANSWERS = timedelta(hours=48)


class SweepVerbs(DeletionVerbs):
    """Called every few seconds by anyone, as often as they like."""

    def sweep(self) -> int:
        return (
            self._end_overdue()
            + self._delete_expired()
            + self._erase_deleted()
            + self._forget_answers()
        )

    def _end_overdue(self) -> int:
        overdue = (jobs.c.state.in_(list(_LATE)), jobs.c.deadline <= self._clock.now())
        query = select(jobs.c.id).where(*overdue).limit(JOBS_AT_ONCE)
        with self._db.read() as connection:
            found = connection.execute(query).scalars().all()
        return sum(self._end_if_overdue(job_id) for job_id in found)

    def _end_if_overdue(self, job_id: str) -> bool:
        with self._open_if_there(job_id) as job:
            if job is None or job.state not in _LATE:
                return False
            deadline = job["deadline"]
            if deadline is None or deadline > job.now:
                return False
            _LATE[job.state](job)
            return True

    def _forget_answers(self) -> int:
        old = idempotency.c.create_time <= self._clock.now() - KEEP_ANSWERS
        with self._db.read() as connection:
            # Looking first takes no lock.
            if connection.execute(select(idempotency.c.key).where(old).limit(1)).first() is None:
                return 0
        with self._db.write() as connection:
            return connection.execute(delete(idempotency).where(old)).rowcount


def _expire(job: LockedJob) -> None:
    error = ArrowQuantError(
        "max_pending_exceeded",
        f"no worker took the job within its limit of {job['max_pending_s']} s",
        "Submit it again when workers are free, or with a longer limits.max_pending_s.",
    )
    hold_units(job)
    if job["attempt"] > 1:
        # The failed try may have left uploads behind.
        free_cleanup(job)
    job.move(JobState.EXPIRED, error=error.as_dict())


def _fail(job: LockedJob) -> None:
    error = ArrowQuantError(
        "max_runtime_exceeded",
        f"the job ran longer than its limit of {job['max_runtime_s']} s",
        "Raise limits.max_runtime_s; retry continues from the units that are done.",
    )
    fail(job, error)


_LATE: Final = {JobState.QUEUED: _expire, JobState.RUNNING: _fail}

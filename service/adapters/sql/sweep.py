"""What has to happen although nobody asks for it."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select

from service.adapters.sql.life import fail
from service.adapters.sql.locked import Verbs
from service.adapters.sql.tables import idempotency, jobs
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState

KEEP_ANSWERS = timedelta(hours=48)


class SweepVerbs(Verbs):
    """Called every few seconds by anyone, as often as they like."""

    def sweep(self) -> int:
        return self._fail_overdue() + self._forget_answers()

    def _fail_overdue(self) -> int:
        overdue = (jobs.c.state == JobState.RUNNING, jobs.c.deadline <= self._clock.now())
        with self._db.read() as connection:
            found = connection.execute(select(jobs.c.id).where(*overdue)).scalars().all()
        return sum(self._fail_if_overdue(job_id) for job_id in found)

    def _fail_if_overdue(self, job_id: str) -> bool:
        with self._open(job_id) as job:
            deadline = job["deadline"]
            if job.state is not JobState.RUNNING or deadline is None or deadline > job.now:
                return False
            fail(
                job,
                ArrowQuantError(
                    "max_runtime_exceeded",
                    f"the job ran longer than its limit of {job['max_runtime_s']} s",
                    "Raise limits.max_runtime_s; retry continues from the units that are done.",
                ),
            )
            return True

    def _forget_answers(self) -> int:
        old = idempotency.c.create_time <= self._clock.now() - KEEP_ANSWERS
        with self._db.read() as connection:
            # Looking first takes no lock.
            if connection.execute(select(idempotency.c.key).where(old).limit(1)).first() is None:
                return 0
        with self._db.write() as connection:
            return connection.execute(delete(idempotency).where(old)).rowcount

"""Moves of many jobs in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from service.adapters.sql.life import NO_LEASE, UNTRIED
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.tables import UnitState, jobs, units
from service.domain.batch import CHUNK
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind


class BulkVerbs(Verbs):
    """Changes of many jobs, a bounded number at a time."""

    def stop_queued(self, batch_id: str, state: JobState, error: ArrowQuantError | None) -> int:
        """End up to CHUNK jobs of a batch that no worker has taken, as `cancel_job` ends one: with
        their events, and what an earlier try left behind to be cleaned up. How many there were."""
        queued = (jobs.c.batch_id == batch_id, jobs.c.state == JobState.QUEUED)
        query = select(jobs).where(*queued).order_by(jobs.c.id).limit(CHUNK)
        with self._db.write() as connection:
            # In one order, so that nobody waits in a circle.
            rows = connection.execute(query.with_for_update(key_share=True)).mappings().all()
            if not rows:
                return 0
            now = self._clock.now()
            locked = [LockedJob(connection, row, now, self._rules) for row in rows]
            _hold(connection, [job.id for job in locked])
            _free_cleanup(connection, [job.id for job in locked if job["attempt"] > 1])
            values: dict[str, Any] = {"error": error.as_dict()} if error else {}
            for job in locked:
                job.move(state, **values)
            LockedJob.save_all(locked)
            return len(locked)


def _hold(connection: Connection, job_ids: Sequence[str]) -> None:
    """As `life.hold_units`."""
    connection.execute(
        update(units)
        .where(units.c.job_id.in_(job_ids), units.c.state != UnitState.DONE)
        .values(NO_LEASE | {"state": UnitState.HELD, "fence": units.c.fence + 1})
    )


def _free_cleanup(connection: Connection, job_ids: Sequence[str]) -> None:
    """As `life.free_cleanup`."""
    if job_ids:
        connection.execute(
            update(units)
            .where(units.c.job_id.in_(job_ids), units.c.kind == UnitKind.CLEANUP)
            .values(UNTRIED | {"state": UnitState.FREE})
        )

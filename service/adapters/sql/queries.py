"""Reading jobs, their events, tensors and parts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, select

from service.adapters.sql.conditions import conditions_of
from service.adapters.sql.lists import page_of
from service.adapters.sql.locked import Verbs, hidden, not_found
from service.adapters.sql.records import to_event, to_job, to_part, to_tensor
from service.adapters.sql.tables import events, jobs, parts, tensors
from service.domain.job import Event, JobRecord, PartRow, TensorRow
from service.domain.ports import JobQuery

_MANY = 500  # values in one IN list


class Queries(Verbs):
    """Verbs that change nothing."""

    def get_job(self, job_id: str, tenant: str | None = None) -> JobRecord:
        with self._db.read() as connection:
            query = select(jobs).where(jobs.c.id == job_id)
            row = connection.execute(query).mappings().one_or_none()
            if row is None or hidden(row, tenant):
                raise not_found(job_id)
            return self._records(connection, [row])[0]

    def list_jobs(self, query: JobQuery) -> list[JobRecord]:
        with self._db.read() as connection:
            rows = connection.execute(page_of(query, self._clock.now())).mappings().all()
            return self._records(connection, rows)

    def _records(self, connection: Connection, rows: Sequence[RowMapping]) -> list[JobRecord]:
        told = conditions_of(connection, rows, self._clock.now(), self._rules.quota)
        return [to_job(row, self._rules.max_attempts, told.get(row["id"], ())) for row in rows]

    def events(self, job_id: str, after: int, limit: int) -> list[Event]:
        query = (
            select(events)
            .where(events.c.job_id == job_id, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(limit)
        )
        with self._db.read() as connection:
            return [to_event(row) for row in connection.execute(query).mappings()]

    def event_heads(self, job_ids: Sequence[str]) -> dict[str, int]:
        heads: dict[str, int] = {}
        with self._db.read() as connection:
            for start in range(0, len(job_ids), _MANY):
                some = job_ids[start : start + _MANY]
                query = select(jobs.c.id, jobs.c.event_seq).where(jobs.c.id.in_(some))
                heads.update(connection.execute(query).all())
        return heads

    def tensors(
        self,
        job_id: str,
        after: int = -1,
        limit: int | None = None,
        state: str | None = None,
        output: int = 0,
    ) -> list[TensorRow]:
        query = (
            select(tensors)
            .where(tensors.c.job_id == job_id, tensors.c.output == output, tensors.c.idx > after)
            .order_by(tensors.c.idx)
            .limit(limit)
        )
        if state is not None:
            query = query.where(tensors.c.state == state)
        with self._db.read() as connection:
            return [to_tensor(row) for row in connection.execute(query).mappings()]

    def parts(self, job_id: str) -> list[PartRow]:
        query = select(parts).where(parts.c.job_id == job_id).order_by(parts.c.output, parts.c.seq)
        with self._db.read() as connection:
            return [to_part(row) for row in connection.execute(query).mappings()]

    def check(self) -> None:
        with self._db.read() as connection:
            connection.execute(select(jobs.c.id).limit(1))

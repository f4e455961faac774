"""A batch on its way in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Table, func, select, update
from sqlalchemy.exc import IntegrityError

from service.adapters.sql.batch_queries import counts_of, to_batch
from service.adapters.sql.batch_tables import batch_lines, batches
from service.adapters.sql.engine import write_on
from service.adapters.sql.jobs import job_rows
from service.adapters.sql.quotas import admit
from service.adapters.sql.staging import Staging
from service.adapters.sql.tables import events, jobs, labels, places, units
from service.domain.batch import (
    CHUNK,
    BatchLine,
    BatchRecord,
    BatchState,
    NewBatch,
)
from service.domain.errors import ArrowQuantError
from service.domain.ports import Clock
from service.domain.quotas import Quota

# Everything that a new job has rows in, parents first.
_TABLES = (jobs, places, labels, units, events, batch_lines)


class SqlStage:
    """`BatchStage` on one connection."""

    def __init__(self, connection: Connection, batch: NewBatch, clock: Clock, quota: Quota) -> None:
        self._connection, self._batch, self._clock = connection, batch, clock
        self._quota = quota
        self._staging = Staging(connection, _TABLES)
        self.accepted = False

    def open(self) -> None:
        """Make room for lines."""
        self._staging.open()

    def close(self) -> None:
        """Leave nothing behind."""
        self._staging.close()

    def add(self, lines: Sequence[BatchLine]) -> None:
        now = self._clock.now()
        rows: dict[Table, list[dict[str, Any]]] = {table: [] for table in _TABLES}
        for line in lines:
            for table, some in job_rows(line.job, now).items():
                rows[table] += some
            rows[batch_lines].append(
                {
                    "batch_id": self._batch.id,
                    "number": line.number,
                    "custom_id": line.custom_id,
                    "job_id": line.job.id,
                }
            )
        self._staging.add(rows)

    def taken(self) -> list[int]:
        ours, line = self._staging.twin(places), self._staging.twin(batch_lines)
        query = (
            select(line.c.number)
            .select_from(
                line.join(ours, ours.c.job_id == line.c.job_id).join(
                    places, places.c.sha256 == ours.c.sha256
                )
            )
            .distinct()
            .order_by(line.c.number)
        )
        with self._connection.begin():
            return list(self._connection.execute(query).scalars())

    def size(self, nbytes: int, numbers: Sequence[int]) -> None:
        ours, line = self._staging.twin(jobs), self._staging.twin(batch_lines)
        with self._connection.begin():
            for start in range(0, len(numbers), CHUNK):
                some = line.c.number.in_(numbers[start : start + CHUNK])
                these = ours.c.id.in_(select(line.c.job_id).where(some))
                self._connection.execute(update(ours).where(these).values(counted_bytes=nbytes))

    def accept(self, total: int) -> BatchRecord:
        try:
            with write_on(self._connection):
                record = self._move(total)
        except IntegrityError as error:
            if "places" not in str(error.orig):
                raise
            raise ArrowQuantError(
                "output_in_use",
                "another job began to write to the output of one of the lines",
                "Send the batch again to see which.",
                {"batch": self._batch.id},
            ) from None
        self.accepted = True
        return record

    def _move(self, total: int) -> BatchRecord:
        connection, now = self._connection, self._clock.now()
        known = func.coalesce(func.sum(self._staging.twin(jobs).c.counted_bytes), 0)
        nbytes = int(connection.execute(select(known)).scalar_one())
        admit(connection, now, self._batch.tenant, self._quota, total, nbytes)
        self._staging.move(connection)
        window = self._batch.window_s
        this = batches.c.id == self._batch.id
        found = connection.execute(
            update(batches)
            .where(this, batches.c.state == BatchState.VALIDATING)
            .values(
                state=BatchState.IN_PROGRESS.value,
                total=total,
                expire_time=None if window is None else now + timedelta(seconds=window),
                update_time=now,
            )
        )
        if found.rowcount != 1:
            raise ArrowQuantError(
                "upload_timeout",
                "the upload took so long that the batch was given up",
                "Send it again, in smaller batches if the connection is slow.",
            )
        row = connection.execute(select(batches).where(this)).mappings().one()
        return to_batch(row, counts_of(connection, [self._batch.id])[self._batch.id])

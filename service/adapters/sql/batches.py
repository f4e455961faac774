"""Batches in SQL: many jobs accepted, stopped or queued again, a bounded number at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Select, delete, insert, select, update

from service.adapters.sql.batch_queries import (
    counts_of,
    idle,
    line_page,
    open_uploads_left,
    to_batch,
    to_outcome,
)
from service.adapters.sql.batch_stage import SqlStage
from service.adapters.sql.batch_tables import batch_lines, batches
from service.adapters.sql.engine import Database
from service.adapters.sql.ledger import SqlLedger
from service.adapters.sql.outbox import announce
from service.adapters.sql.tables import jobs
from service.domain.batch import (
    CHUNK,
    ENDED,
    RETRYABLE_JOBS,
    BatchRecord,
    BatchStage,
    BatchState,
    Doing,
    LineOutcome,
    NewBatch,
)
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState
from service.domain.ports import Clock
from service.domain.webhooks import HookEvent

# An upload takes minutes at most; one that is still VALIDATING after this lost its process.
UPLOAD_LOST = timedelta(minutes=30)
# A retry counts each job's units again, so fewer go into one step.
RETRIES_AT_ONCE = 50


class SqlBatches:
    """`BatchLedger` beside a ledger of jobs in the same database."""

    def __init__(self, engine: Engine, clock: Clock, ledger: SqlLedger) -> None:
        self._db, self._clock, self._ledger = Database(engine), clock, ledger

    @contextmanager
    def stage(self, batch: NewBatch) -> Iterator[BatchStage]:
        self._create(batch)
        accepted = False
        try:
            with self._db.hold() as connection:
                stage = SqlStage(connection, batch, self._clock, self._ledger.quota)
                stage.open()
                try:
                    yield stage
                    accepted = stage.accepted
                finally:
                    stage.close()
        finally:
            if not accepted:
                self._forget(batch.id)

    def get(self, batch_id: str, tenant: str | None = None) -> BatchRecord:
        with self._db.read() as connection:
            return _read(connection, batch_id, tenant)

    def list(
        self, tenant: str, states: Sequence[BatchState], before: str | None, limit: int
    ) -> Sequence[BatchRecord]:
        query = select(batches).where(batches.c.tenant == tenant)
        if before is not None:
            query = query.where(batches.c.id < before)
        with self._db.read() as connection:
            return _page(connection, query, states, limit)

    def ask(self, batch_id: str, tenant: str, doing: Doing) -> BatchRecord:
        with self._db.write() as connection:
            batch = _read(connection, batch_id, tenant, lock=True)
            now = self._clock.now()
            values = _wish(connection, batch, doing, now)
            if values:
                change = update(batches).where(batches.c.id == batch_id)
                connection.execute(change.values(values | {"update_time": now}))
            return _read(connection, batch_id, tenant)

    def advance(self, batch_id: str) -> bool:
        with self._db.read() as connection:
            row = connection.execute(select(batches).where(batches.c.id == batch_id)).mappings()
            batch = row.one_or_none()
        if batch is None or batch["doing"] is None:
            return False
        moved: bool | None
        match Doing(batch["doing"]):
            case Doing.CANCEL:
                moved = self._ledger.stop_queued(batch_id, JobState.CANCELLED, None) > 0
                moved = moved or self._cancel_running(batch_id)
            case Doing.EXPIRE:
                moved = self._ledger.stop_queued(batch_id, JobState.EXPIRED, _window_closed()) > 0
            case Doing.RETRY:
                moved = self._retry_some(batch_id, batch["doing_after"], batch["doing_time"])
        if moved is None:
            return False  # the sweep goes on with it
        if not moved:
            self._done(batch_id, batch["doing"])
            self._end(batch_id)
        return moved

    def outcomes(
        self, batch_id: str, states: Iterable[JobState], page: int = CHUNK
    ) -> Iterator[LineOutcome]:
        wanted, after = [state.value for state in states], 0
        tries = self._ledger.rules.max_attempts
        while True:
            with self._db.read() as connection:
                query = line_page(batch_id, wanted, after, page)
                found = [to_outcome(row, tries) for row in connection.execute(query).mappings()]
            yield from found
            if len(found) < page:
                return
            after = found[-1].number

    def heads(self, batch_ids: Sequence[str]) -> dict[str, int]:
        with self._db.read() as connection:
            query = select(batches).where(batches.c.id.in_(batch_ids))
            found = _records(connection, query)
        return {
            one.id: zlib.crc32(repr((one.state, one.counts, one.attempt)).encode()) for one in found
        }

    def delete(self, batch_id: str, tenant: str) -> None:
        with self._db.write() as connection:
            batch = _read(connection, batch_id, tenant, lock=True)
            if batch.state not in ENDED:
                raise ArrowQuantError(
                    "batch_active",
                    f"the batch is {batch.state}",
                    "Wait until it has ended, or cancel it first.",
                    {"batch": batch_id},
                )
            connection.execute(
                update(jobs).where(jobs.c.batch_id == batch_id).values(batch_id=None)
            )
            connection.execute(delete(batch_lines).where(batch_lines.c.batch_id == batch_id))
            connection.execute(delete(batches).where(batches.c.id == batch_id))

    def sweep(self) -> int:
        now = self._clock.now()
        with self._db.read() as connection:
            found = connection.execute(select(batches).where(idle(now, now - UPLOAD_LOST)))
            rows = found.mappings().all()
        for row in rows:
            if row["state"] == BatchState.VALIDATING:
                self._lost(row["id"])
            elif row["doing"] is not None:
                self.advance(row["id"])
            elif _window_is_over(row, now):
                self._close_window(row["id"])
            else:
                self._end(row["id"])
        return len(rows)

    # -- the steps --------------------------------------------------------------------------------

    def _create(self, batch: NewBatch) -> None:
        now = self._clock.now()
        values: dict[str, Any] = {
            "id": batch.id,
            "tenant": batch.tenant,
            "name": batch.name,
            "labels": batch.labels,
            "state": BatchState.VALIDATING.value,
            "attempt": 1,
            "total": 0,
            "window_s": batch.window_s,
            "expired": False,
            "create_time": now,
            "update_time": now,
        }
        with self._db.write() as connection:
            connection.execute(insert(batches).values(values))

    def _forget(self, batch_id: str) -> None:
        with self._db.write() as connection:
            unaccepted = batches.c.state == BatchState.VALIDATING
            connection.execute(delete(batches).where(batches.c.id == batch_id, unaccepted))

    def _lost(self, batch_id: str) -> None:
        now = self._clock.now()
        lost = update(batches).where(
            batches.c.id == batch_id, batches.c.state == BatchState.VALIDATING
        )
        with self._db.write() as connection:
            connection.execute(
                lost.values(state=BatchState.FAILED.value, end_time=now, update_time=now)
            )

    def _cancel_running(self, batch_id: str) -> bool:
        running = (jobs.c.batch_id == batch_id, jobs.c.state == JobState.RUNNING)
        with self._db.read() as connection:
            found = connection.execute(select(jobs.c.id).where(*running).limit(CHUNK)).scalars()
            ids = found.all()
        for job_id in ids:
            try:
                self._ledger.cancel_job(job_id)
            except ArrowQuantError as error:
                if error.code not in ("job_terminal", "not_found"):
                    raise
        return bool(ids)

    def _retry_some(self, batch_id: str, after: str | None, asked: datetime) -> bool | None:
        """Whether there were any; None if it has to wait for room in the tenant's queue."""
        # What ended after it was asked has had its new try.
        due = (
            jobs.c.batch_id == batch_id,
            jobs.c.state.in_([state.value for state in RETRYABLE_JOBS]),
            jobs.c.end_time <= asked,
            jobs.c.id > (after or ""),
        )
        with self._db.read() as connection:
            query = select(jobs.c.id).where(*due).order_by(jobs.c.id).limit(RETRIES_AT_ONCE)
            ids = connection.execute(query).scalars().all()
        last, full = None, False
        for job_id in ids:
            try:
                self._ledger.retry_job(job_id)
            except ArrowQuantError as error:
                # Its output is another's by now, or somebody else was quicker: it stays as it is.
                if error.code == "database_unavailable":
                    raise
                full = error.code == "quota_exceeded"
                if full:
                    break
            last = job_id
        if last is not None:
            with self._db.write() as connection:
                this = update(batches).where(batches.c.id == batch_id)
                connection.execute(this.values(doing_after=last))
        return None if full else last is not None

    def _done(self, batch_id: str, doing: str) -> None:
        this = (batches.c.id == batch_id, batches.c.doing == doing)
        values = {"doing": None, "doing_time": None, "doing_after": None}
        with self._db.write() as connection:
            connection.execute(
                update(batches).where(*this).values(values | {"update_time": self._clock.now()})
            )

    def _close_window(self, batch_id: str) -> None:
        now = self._clock.now()
        this = (batches.c.id == batch_id, batches.c.doing.is_(None), batches.c.expired.is_(False))
        with self._db.write() as connection:
            wish = {"doing": Doing.EXPIRE.value, "doing_time": now, "expired": True}
            connection.execute(update(batches).where(*this).values(wish | {"update_time": now}))
        while self.advance(batch_id):
            pass

    def _end(self, batch_id: str) -> None:
        """Give it its last state, and say so, once nothing of it is left to do."""
        with self._db.write() as connection:
            batch = _read(connection, batch_id, None, lock=True)
            if batch.state is not BatchState.FINALIZING or open_uploads_left(connection, batch_id):
                return
            now = self._clock.now()
            state = _last_state(batch)
            ended = {"state": state.value, "end_time": now, "update_time": now}
            connection.execute(update(batches).where(batches.c.id == batch_id).values(ended))
            announce(
                connection,
                batch.tenant,
                HookEvent.BATCH_COMPLETED,
                subject=batch_id,
                origin=f"{batch_id}:{batch.attempt}",
                data=_told(_read(connection, batch_id, None)),
                now=now,
            )


def _read(
    connection: Connection, batch_id: str, tenant: str | None, *, lock: bool = False
) -> BatchRecord:
    query = select(batches).where(batches.c.id == batch_id)
    if lock:
        query = query.with_for_update(key_share=True)
    found = _records(connection, query)
    if not found or tenant not in (None, found[0].tenant):
        raise ArrowQuantError("not_found", "there is no such batch", where={"batch": batch_id})
    return found[0]


def _records(connection: Connection, query: Select[Any]) -> list[BatchRecord]:
    rows = connection.execute(query).mappings().all()
    counted = counts_of(connection, [row["id"] for row in rows])
    return [to_batch(row, counted.get(row["id"], {})) for row in rows]


def _page(
    connection: Connection, query: Select[Any], states: Sequence[BatchState], limit: int
) -> list[BatchRecord]:
    """States depend on the jobs, so they are filtered here, page after page."""
    found: list[BatchRecord] = []
    before: str | None = None
    while len(found) < limit:
        more = query if before is None else query.where(batches.c.id < before)
        page = _records(connection, more.order_by(batches.c.id.desc()).limit(limit))
        found += [one for one in page if not states or one.state in states]
        if len(page) < limit:
            break
        before = page[-1].id
    return found[:limit]


def _wish(
    connection: Connection, batch: BatchRecord, doing: Doing, now: datetime
) -> dict[str, Any]:
    """The columns that note a wish, or nothing where it is granted already."""
    asked = {"doing": doing.value, "doing_time": now, "doing_after": None}
    if doing is Doing.CANCEL:
        if batch.state in (BatchState.CANCELLING, BatchState.CANCELLED):
            return {}
        if batch.state in ENDED or batch.state is BatchState.FINALIZING:
            raise _refused("batch_terminal", batch, "There is nothing left to cancel.")
        if batch.state is BatchState.VALIDATING:
            raise _refused("batch_active", batch, "End the upload: then nothing of it is queued.")
        return asked | {"cancel_time": now, "state": BatchState.CANCELLING.value}
    open_wish = select(batches.c.doing).where(batches.c.id == batch.id)
    if batch.state in (BatchState.VALIDATING, BatchState.CANCELLING):
        raise _refused("batch_active", batch, "Wait until it has ended.")
    if connection.execute(open_wish).scalar() is not None:
        raise _refused("batch_active", batch, "Its jobs are being worked through; try again soon.")
    if not batch.counts.failed + batch.counts.cancelled + batch.counts.expired:
        return {}
    window = None if batch.window_s is None else now + timedelta(seconds=batch.window_s)
    return asked | {
        "state": BatchState.IN_PROGRESS.value,
        "attempt": batch.attempt + 1,
        "expired": False,
        "expire_time": window,
        "cancel_time": None,
        "end_time": None,
    }


def _refused(code: str, batch: BatchRecord, hint: str) -> ArrowQuantError:
    return ArrowQuantError(code, f"the batch is {batch.state}", hint, {"batch": batch.id})


def _window_closed() -> ArrowQuantError:
    return ArrowQuantError(
        "batch_expired",
        "the batch's completion window closed before a worker took the job",
        "Retry the batch when workers are free.",
    )


def _window_is_over(row: Any, now: datetime) -> bool:
    return bool(not row["expired"] and row["expire_time"] is not None and row["expire_time"] <= now)


def _last_state(batch: BatchRecord) -> BatchState:
    if batch.cancel_time is not None and batch.counts.cancelled:
        return BatchState.CANCELLED
    if batch.expire_time is not None and batch.counts.expired:
        return BatchState.EXPIRED
    return BatchState.COMPLETED


def _told(batch: BatchRecord) -> dict[str, Any]:
    """The data of a `batch.completed` message."""
    counts = {name: getattr(batch.counts, name) for name in batch.counts.__slots__}
    return {
        "id": batch.id,
        "name": batch.name,
        "labels": batch.labels,
        "state": batch.state.value,
        "attempt": batch.attempt,
        "counts": counts,
        "create_time": batch.create_time,
        "end_time": batch.end_time,
    }

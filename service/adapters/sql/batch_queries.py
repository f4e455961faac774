"""Reading batches: counts, lines, and which of them something is to be done about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    union_all,
)

from service.adapters.sql.batch_lines import kept_of
from service.adapters.sql.batch_tables import batch_lines, batches
from service.adapters.sql.records import to_job
from service.adapters.sql.tables import UnitState, jobs, units
from service.domain.batch import (
    ACTIVE_JOBS,
    ENDED,
    BatchCounts,
    BatchRecord,
    BatchState,
    LineOutcome,
)
from service.domain.job import JobState, UnitKind

_ACTIVE = [state.value for state in ACTIVE_JOBS]


def counts_of(connection: Connection, batch_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Jobs by batch and state: those that exist, and what is kept of those that were deleted. One
    statement, so that a job that is being deleted is counted once."""
    if not batch_ids:
        return {}
    number = func.count().label("number")
    alive = (
        select(jobs.c.batch_id, jobs.c.state, number)
        .where(jobs.c.batch_id.in_(batch_ids))
        .group_by(jobs.c.batch_id, jobs.c.state)
    )
    gone = (
        select(batch_lines.c.batch_id, batch_lines.c.state, number)
        .where(batch_lines.c.batch_id.in_(batch_ids), batch_lines.c.state.is_not(None))
        .group_by(batch_lines.c.batch_id, batch_lines.c.state)
    )
    counts: dict[str, dict[str, int]] = {}
    for batch_id, state, count in connection.execute(union_all(alive, gone)):
        of_batch = counts.setdefault(batch_id, {})
        of_batch[state] = of_batch.get(state, 0) + count
    return counts


def to_batch(row: RowMapping, states: Mapping[str, int]) -> BatchRecord:
    counts = BatchCounts.of(row["total"], states)
    return BatchRecord(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        labels=row["labels"],
        state=_state(row, counts),
        attempt=row["attempt"],
        counts=counts,
        window_s=row["window_s"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        cancel_time=row["cancel_time"],
        expire_time=row["expire_time"],
        end_time=row["end_time"],
    )


def _state(row: RowMapping, counts: BatchCounts) -> BatchState:
    """As stored, but for what only the jobs know."""
    stored = BatchState(row["state"])
    if stored in ENDED:
        # Somebody retried one of its jobs by itself.
        return BatchState.IN_PROGRESS if counts.active else stored
    if stored is BatchState.VALIDATING or counts.active or row["doing"] is not None:
        return stored
    return BatchState.FINALIZING


def idle(now: datetime, lost: datetime) -> ColumnElement[bool]:
    """Batches that a sweep has something to do about."""
    active = exists().where(jobs.c.batch_id == batches.c.id, jobs.c.state.in_(_ACTIVE))
    validating = batches.c.state == BatchState.VALIDATING
    return and_(
        batches.c.end_time.is_(None),
        or_(
            and_(validating, batches.c.create_time <= lost),
            batches.c.doing.is_not(None),
            and_(batches.c.expired.is_(False), batches.c.expire_time <= now),
            and_(not_(validating), not_(active)),
        ),
    )


def open_uploads_left(connection: Connection, batch_id: str) -> bool:
    """Whether something that a failed or cancelled job left half-written is still there."""
    ended = (JobState.FAILED.value, JobState.CANCELLED.value)
    query: Select[Any] = (
        select(literal_column("1"))
        .select_from(jobs.join(units, units.c.job_id == jobs.c.id))
        .where(
            jobs.c.batch_id == batch_id,
            jobs.c.state.in_(ended),
            units.c.kind == UnitKind.CLEANUP,
            units.c.state.in_((UnitState.FREE.value, UnitState.LEASED.value)),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def line_page(batch_id: str, states: Sequence[str], after: int, limit: int) -> Select[Any]:
    """Lines in some states with their jobs."""
    columns = [column.label(f"line_{column.name}") for column in batch_lines.columns]
    state = func.coalesce(batch_lines.c.state, jobs.c.state)
    return (
        select(*columns, *jobs.columns)
        .select_from(batch_lines.outerjoin(jobs, jobs.c.id == batch_lines.c.job_id))
        .where(
            batch_lines.c.batch_id == batch_id,
            batch_lines.c.number > after,
            state.in_(states),
        )
        .order_by(batch_lines.c.number)
        .limit(limit)
    )


def to_outcome(row: RowMapping, max_attempts: int) -> LineOutcome:
    gone = row["line_state"] is not None
    deleted = not gone and row["delete_time"] is not None
    return LineOutcome(
        number=row["line_number"],
        custom_id=row["line_custom_id"],
        job_id=row["line_job_id"],
        state=JobState(row["line_state"] if gone else row["state"]),
        job=None if gone or deleted else to_job(row, max_attempts),
        kept=kept_of(row) if deleted else row["line_kept"],
    )

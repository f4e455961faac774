"""What stays of a batch's jobs when they are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, update

from service.adapters.sql.batch_tables import batch_lines
from service.adapters.sql.tables import jobs

_KEPT = ("attempt", "error", "summary")


def keep_outcomes(connection: Connection, job_ids: Sequence[str]) -> None:
    """Write into their lines how these jobs ended, in the transaction that deletes them."""
    query = select(jobs).where(jobs.c.id.in_(job_ids), jobs.c.batch_id.is_not(None))
    rows = connection.execute(query).mappings().all()
    if not rows:
        return
    connection.execute(
        update(batch_lines)
        .where(batch_lines.c.job_id == bindparam("this_job"))
        .values(state=bindparam("ended_as"), kept=bindparam("left")),
        [
            {
                "this_job": row["id"],
                "ended_as": row["state"],
                "left": kept_of(row),
            }
            for row in rows
        ],
    )


def kept_of(row: RowMapping) -> dict[str, Any]:
    """What is told of a job that was deleted, from its row."""
    ended = row["end_time"].isoformat() if row["end_time"] else None
    return {name: row[name] for name in _KEPT} | {"end_time": ended}

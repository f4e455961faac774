"""The tables of batches. They share the metadata of all others."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from service.adapters.sql.tables import UtcDateTime, jobs, metadata

_json = JSON(none_as_null=True)
_OPEN = text("end_time IS NULL")

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", _json, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    # What was asked of all its jobs and is not done yet, and when: a job that has ended again
    # since is not retried twice.
    Column("doing", String(16)),
    Column("doing_time", UtcDateTime),
    # The last job for which it was done, where that cannot be told from its state.
    Column("doing_after", String(64)),
    Column("window_s", Integer),
    Column("expired", Boolean, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Column("cancel_time", UtcDateTime),
    Column("expire_time", UtcDateTime),
    Column("end_time", UtcDateTime),
    Index(None, "tenant", "id"),
    Index("ix_batches_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
)

# One for each line. It outlives its job: `state` and `kept` are then what is left of that.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", String(64), ForeignKey("batches.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", Text, nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("state", String(16)),
    Column("kept", _json),
    Index(None, "job_id"),
)
_gone = batch_lines.c.state.is_not(None)
Index(
    "ix_batch_lines_gone",
    batch_lines.c.batch_id,
    batch_lines.c.state,
    sqlite_where=_gone,
    postgresql_where=_gone,
)

# Counting the jobs of a batch reads this and nothing else.
Index("ix_jobs_batch_id_state", jobs.c.batch_id, jobs.c.state)

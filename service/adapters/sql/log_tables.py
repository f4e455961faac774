"""The tables of jobs' logs."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Integer, String, Table, Text

from service.adapters.sql.tables import UtcDateTime, metadata

_json = JSON(none_as_null=True)


def _job_id() -> Column[str]:
    reference = ForeignKey("jobs.id", ondelete="CASCADE")
    return Column("job_id", String(64), reference, primary_key=True)


# Numbers a job's lines. A row of its own, so that logs never wait for a job's lock, nor it for them.
log_heads = Table(
    "job_log_heads",
    metadata,
    _job_id(),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
)

log_lines = Table(
    "job_log_lines",
    metadata,
    _job_id(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time", UtcDateTime, nullable=False),
    Column("level", Integer, nullable=False),
    # In JSON's ASCII form, since a text column cannot hold every name.
    Column("tensor", Text),
    Column("line", _json, nullable=False),
)

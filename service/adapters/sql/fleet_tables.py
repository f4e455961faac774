"""The table of worker processes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table

from service.adapters.sql.tables import UtcDateTime, metadata

workers = Table(
    "workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("host", String(256), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(64), nullable=False),
    Column("start_time", UtcDateTime, nullable=False),
    Column("heartbeat_time", UtcDateTime, nullable=False),
    Column("rss_bytes", BigInteger, nullable=False, default=0),
    # When it was asked to take no more work.
    Column("drain_time", UtcDateTime),
    Index(None, "heartbeat_time"),
)

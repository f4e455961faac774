"""The tables of what tenants may have, what they had, and who changed what."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, Table

from service.adapters.sql.tables import UtcDateTime, metadata

_json = JSON(none_as_null=True)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, default=0)


# One row for each tenant that has ever asked for work: it is locked while that is judged.
quotas = Table(
    "quotas",
    metadata,
    Column("tenant", String(128), primary_key=True),
    # Limits by name that differ from the defaults; null: unlimited.
    Column("overrides", _json, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("day", String(10), primary_key=True),  # 2026-11-27, in UTC
    _count("jobs"),
    _count("jobs_succeeded"),
    _count("bytes_planned"),
    _count("bytes_in"),
    _count("bytes_out"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("subject", String(256), nullable=False),
    Column("action", String(64), nullable=False),
    Column("resource", String(512), nullable=False),
    Column("status", Integer, nullable=False),
    Column("code", String(64)),
    Column("request_id", String(128), nullable=False),
    Column("address", String(64), nullable=False),
    Index(None, "tenant", "id"),
    Index(None, "time"),
)

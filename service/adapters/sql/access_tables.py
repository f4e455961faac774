"""The tables of what tenants may have and what they had."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, String, Table

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

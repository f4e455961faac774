"""The table of connections that admins make."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Integer, LargeBinary, String, Table, UniqueConstraint

from service.adapters.sql.tables import UtcDateTime, metadata

connections = Table(
    "connections",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("name", String(64), nullable=False),
    Column("place", JSON(none_as_null=True), nullable=False),
    Column("credentials", String(16), nullable=False),
    Column("reference", String(64)),
    # Encrypted, bound to tenant and id.
    Column("sealed", LargeBinary),
    Column("version", Integer, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Column("credentials_time", UtcDateTime, nullable=False),
    UniqueConstraint("tenant", "name"),
)

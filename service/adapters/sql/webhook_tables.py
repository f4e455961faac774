"""The tables of webhooks: endpoints, the outbox of deliveries, and every attempt made."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    text,
)

from service.adapters.sql.tables import UtcDateTime, metadata

_id = String(64)

endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", _id, primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False),
    # Names of events; none: all of them.
    Column("events", JSON(none_as_null=True), nullable=False),
    # Why nothing is sent; NULL while messages go out.
    Column("disabled", String(16)),
    # Sealed; the old one signs too until its time is over.
    Column("secret", LargeBinary, nullable=False),
    Column("old_secret", LargeBinary),
    Column("old_secret_until", UtcDateTime),
    Column("failing_since", UtcDateTime),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Index(None, "tenant", "id"),
)

deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", _id, primary_key=True),
    Column(
        "endpoint_id", _id, ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), nullable=False
    ),
    Column("event", String(32), nullable=False),
    # The job or batch it is about. No reference: the log outlives what it tells of.
    Column("subject", _id, nullable=False),
    # What caused it, once per endpoint: no event makes two messages.
    Column("origin", String(128), nullable=False),
    # The exact bytes of every attempt.
    Column("body", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("next_time", UtcDateTime),
    # Begun in all, and since it was last queued, at `since`.
    Column("attempts", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    # Whoever sends it now: grows at every claim.
    Column("fence", BigInteger, nullable=False),
    Column("claim_time", UtcDateTime),
    Column("lease_expires", UtcDateTime),
    Column("create_time", UtcDateTime, nullable=False),
    Column("end_time", UtcDateTime),
    Index("uq_webhook_deliveries_origin", "endpoint_id", "origin", unique=True),
    Index(None, "endpoint_id", "id"),
    Index(None, "since"),
)

_pending = text("state = 'PENDING'")
# Couriers read only what is to be sent, however long the log grows.
Index(
    "ix_webhook_deliveries_pending",
    deliveries.c.endpoint_id,
    deliveries.c.next_time,
    sqlite_where=_pending,
    postgresql_where=_pending,
)

attempts = Table(
    "webhook_attempts",
    metadata,
    Column(
        "delivery_id",
        _id,
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", UtcDateTime, nullable=False),
    Column("duration_ms", Integer),
    Column("status", Integer),
    Column("error", String(32)),
)

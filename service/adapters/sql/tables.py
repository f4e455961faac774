"""The tables. A change here needs a migration; a test holds the two equal."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UnitState(StrEnum):
    """Where a unit of work is."""

    HELD = "HELD"  #: not claimable: its job waits for something else, or has ended
    FREE = "FREE"  #: claimable from `not_before` on
    LEASED = "LEASED"  #: someone's until `lease_expires`; claimable after that
    DONE = "DONE"


class Doubles(TypeDecorator[tuple[float, ...]]):
    """Numbers as the bytes of float64, little-endian: to the last bit, infinities and NaN too."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: tuple[float, ...] | None, dialect: Dialect) -> bytes | None:
        return struct.pack(f"<{len(value)}d", *value) if value else None

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> tuple[float, ...]:
        return struct.unpack(f"<{len(value) // 8}d", value) if value else ()


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times on both databases; SQLite itself knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_id = String(64)
_word = String(16)
_json = JSON(none_as_null=True)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, default=0)


jobs = Table(
    "jobs",
    metadata,
    Column("id", _id, primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", _json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", _word, nullable=False),
    Column("phase", _word),
    Column("attempt", Integer, nullable=False),
    Column("request", _json, nullable=False),
    Column("resolved", _json, nullable=False),
    # Where the artifact goes, as one text; what of it is in use stands in `places`.
    Column("output", Text),
    # Whether `resolved` pins the source and the units exist.
    Column("planned", Boolean, nullable=False),
    Column("error", _json),
    Column("warnings", _json, nullable=False),
    Column("summary", _json),
    Column("create_time", UtcDateTime, nullable=False),
    Column("start_time", UtcDateTime),
    Column("end_time", UtcDateTime),
    Column("update_time", UtcDateTime, nullable=False),
    Column("max_runtime_s", Integer),
    # Source bytes that were counted for the tenant's day; NULL: their number is not known yet.
    Column("counted_bytes", BigInteger),
    Column("deadline", UtcDateTime),
    _number("event_seq"),
    _number("bytes_total"),
    # High-water mark: it stays when units have to be done again.
    _number("bytes_done"),
    _number("bytes_read"),
    _number("bytes_written"),
    _number("tensors_total"),
    _number("tensors_done"),
    _number("tensors_kept"),
    _number("tensors_fallback"),
    _number("units_total"),
    _number("units_done"),
    # For the rate: seconds in which someone was at work, and the bytes done before them.
    Column("active_s", Double, nullable=False, default=0.0),
    _number("bytes_before"),
    Column("progress_time", UtcDateTime),
    Column("progress_event_time", UtcDateTime),
    # Since when workers are at it without a break, and since when a tensor has fallen back.
    Column("responding_since", UtcDateTime),
    Column("degraded_time", UtcDateTime),
    # Of the batch that submitted it, if one did.
    Column("batch_id", _id),
    Column("trace", _id),
    # When it last became QUEUED, and how long it may then wait: `deadline` is of waiting first,
    # of running then.
    Column("queue_time", UtcDateTime),
    Column("max_pending_s", Integer),
    # Days after its end in which it is kept (NULL: until somebody deletes it), then with or
    # without its artifact; from `delete_time` on it is gone for everyone but those who tidy up.
    Column("retain_days", Integer),
    Column("retain_artifacts", Boolean),
    Column("expire_time", UtcDateTime),
    Column("delete_time", UtcDateTime),
    Column("delete_artifacts", Boolean),
    # What its units used up, over all workers and tries.
    Column("cpu_s", Double, nullable=False, default=0.0),
    Column("wall_s", Double, nullable=False, default=0.0),
    _number("bytes_in"),
    _number("bytes_out"),
    _number("peak_rss_bytes"),
    # What of a replaced artifact is to be removed: [[key, etag]].
    Column("leftovers", _json),
    Index(None, "tenant", "create_time"),
    Index(None, "tenant", "output"),
    Index(None, "expire_time"),
    Index(None, "delete_time"),
    Index(None, "tenant", "id"),
    Index(None, "batch_id", "id"),
    Index(None, "state", "deadline"),
)


def _job_id(*, primary_key: bool = True) -> Column[str]:
    reference = ForeignKey("jobs.id", ondelete="CASCADE")
    return Column("job_id", _id, reference, primary_key=primary_key, nullable=False)


def _output() -> Column[int]:
    """Which of the job's outputs, from 0."""
    return Column("output", Integer, primary_key=True, autoincrement=False, default=0)


# Labels once more, for searching; jobs.labels is what is shown.
labels = Table(
    "job_labels",
    metadata,
    _job_id(),
    Column("key", String(64), primary_key=True),
    Column("value", String(256), nullable=False),
    Index(None, "key", "value"),
)

events = Table(
    "events",
    metadata,
    _job_id(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("type", _word, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("data", _json, nullable=False),
)

units = Table(
    "units",
    metadata,
    _job_id(),
    Column("kind", _word, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("tenant", String(128), nullable=False),
    Column("state", _word, nullable=False),
    # Rows are never deleted, so a fence is never used twice.
    _number("fence"),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", UtcDateTime),
    Column("lease_expires", UtcDateTime),
    Column("owner_name", String(256)),
    Column("owner_host", String(256)),
    Column("owner_pid", Integer),
    _number("rss_bytes"),
    Column("error", _json),
    # When it first failed so, since it last went well.
    Column("error_time", UtcDateTime),
    _number("source_bytes"),
    _number("bytes_done"),
    # Read from the source: by all claims so far, and by those before the present one.
    _number("bytes_read"),
    _number("bytes_read_before"),
    # Where it waits (see lanes.py), and the job's times once more: its turn is found without it.
    Column("lane", String(160), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("queue_time", UtcDateTime, nullable=False),
)

_open = units.c.state.in_((UnitState.FREE.value, UnitState.LEASED.value))
# Claiming reads only what is open, however long the history grows.
Index("ix_units_open", units.c.state, units.c.job_id, sqlite_where=_open, postgresql_where=_open)

_free = units.c.state == UnitState.FREE.value
# Whoever waits, each lane by age; the last two columns spare a look at the row.
Index(
    "ix_units_lane",
    *(units.c[name] for name in ("lane", "create_time", "job_id", "queue_time", "not_before")),
    sqlite_where=_free,
    postgresql_where=_free,
)

# Where the artifacts of jobs that have not ended go, by digest: two jobs at once must not write to
# one place.
places = Table(
    "places",
    metadata,
    Column("sha256", String(64), primary_key=True),
    _job_id(primary_key=False),
    Index(None, "job_id"),
)

# Finished parts: one for each unit and output.
parts = Table(
    "parts",
    metadata,
    _job_id(),
    _output(),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("etag", String(256), nullable=False),
    Column("batches", Integer, nullable=False),
    Index(None, "key"),
)

tensors = Table(
    "tensors",
    metadata,
    _job_id(),
    _output(),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("state", _word, nullable=False),
    Column("bits", Integer, nullable=False),
    # Escalated width: NULL as planned, 0 keep raw.
    Column("level_bits", Integer),
    # The rest of the row; names go in here because a text column cannot hold every string.
    Column("row", _json, nullable=False),
    Column("history", _json, nullable=False),
    Index(None, "job_id", "state"),
)

# Which units hold rows of which tensors, and the errors those rows had when last measured.
pieces = Table(
    "pieces",
    metadata,
    Column("job_id", _id, primary_key=True),
    _output(),
    Column("tensor", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("bits", Integer),
    Column("sum_w2", Double),
    Column("sum_e2", Double),
    Column("sum_wq", Double),
    Column("sum_q2", Double),
    Column("max_abs", Double),
    Column("count", BigInteger),
    Column("stored_bytes", BigInteger),
    Column("out_w2", Double),
    Column("out_e2", Double),
    Column("group_sums", Doubles()),
    ForeignKeyConstraint(
        ["job_id", "output", "tensor"],
        ["tensors.job_id", "tensors.output", "tensors.idx"],
        ondelete="CASCADE",
    ),
    Index(None, "job_id", "seq"),
)

# With a budget: the errors that each way to store a tensor's rows has, as the units measured them.
candidates = Table(
    "candidates",
    metadata,
    Column("job_id", _id, primary_key=True),
    _output(),
    Column("tensor", Integer, primary_key=True, autoincrement=False),
    Column("candidate", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("sum_w2", Double),
    Column("sum_e2", Double),
    Column("sum_wq", Double),
    Column("sum_q2", Double),
    Column("max_abs", Double),
    Column("out_w2", Double),
    Column("out_e2", Double),
    Column("group_sums", Doubles()),
    Column("count", BigInteger),
    ForeignKeyConstraint(
        ["job_id", "output", "tensor"],
        ["tensors.job_id", "tensors.output", "tensors.idx"],
        ondelete="CASCADE",
    ),
    Index(None, "job_id", "seq"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("name", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    # After a rotation the secret before it works a little longer.
    Column("previous_sha256", String(64)),
    Column("previous_until", UtcDateTime),
    Column("scopes", _json, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("expire_time", UtcDateTime),
    Column("last_use_time", UtcDateTime),
    Column("revoke_time", UtcDateTime),
    Index(None, "tenant", "id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("path", String(512), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("fingerprint", String(128), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("status", Integer),
    Column("headers", _json, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index(None, "create_time"),
)

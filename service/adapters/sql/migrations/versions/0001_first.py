"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoke_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("fingerprint", sa.String(length=128), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "path", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_create_time", "idempotency", ["create_time"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("resolved", sa.JSON(), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("planned", sa.Boolean(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("max_runtime_s", sa.Integer(), nullable=True),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes_written", sa.BigInteger(), nullable=False),
        sa.Column("tensors_total", sa.BigInteger(), nullable=False),
        sa.Column("tensors_done", sa.BigInteger(), nullable=False),
        sa.Column("tensors_kept", sa.BigInteger(), nullable=False),
        sa.Column("tensors_fallback", sa.BigInteger(), nullable=False),
        sa.Column("units_total", sa.BigInteger(), nullable=False),
        sa.Column("units_done", sa.BigInteger(), nullable=False),
        sa.Column("active_s", sa.Double(), nullable=False),
        sa.Column("bytes_before", sa.BigInteger(), nullable=False),
        sa.Column("progress_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress_event_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    active = sa.text("state IN ('QUEUED', 'RUNNING', 'CANCELLING')")
    op.create_index(
        "uq_jobs_output",
        "jobs",
        ["output"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_index("ix_jobs_state_deadline", "jobs", ["state", "deadline"], unique=False)
    op.create_index("ix_jobs_tenant_id", "jobs", ["tenant", "id"], unique=False)
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_events_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_table(
        "job_labels",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_labels_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "key", name="pk_job_labels"),
    )
    op.create_index("ix_job_labels_key_value", "job_labels", ["key", "value"], unique=False)
    op.create_table(
        "tensors",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("idx", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("bits", sa.Integer(), nullable=False),
        sa.Column("level_bits", sa.Integer(), nullable=True),
        sa.Column("row", sa.JSON(), nullable=False),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_tensors_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "idx", name="pk_tensors"),
    )
    op.create_index("ix_tensors_job_id_state", "tensors", ["job_id", "state"], unique=False)
    op.create_table(
        "units",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_expires", sa.DateTime(timezone=True), nullable=True),
        sa.Column("owner_name", sa.String(length=256), nullable=True),
        sa.Column("owner_host", sa.String(length=256), nullable=True),
        sa.Column("owner_pid", sa.Integer(), nullable=True),
        sa.Column("rss_bytes", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("source_bytes", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("part_key", sa.Text(), nullable=True),
        sa.Column("part_nbytes", sa.BigInteger(), nullable=True),
        sa.Column("part_sha256", sa.String(length=64), nullable=True),
        sa.Column("part_etag", sa.String(length=256), nullable=True),
        sa.Column("part_batches", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_units_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "kind", "seq", name="pk_units"),
    )
    op.create_index(
        "ix_units_open",
        "units",
        ["state", "job_id"],
        unique=False,
        sqlite_where=sa.text("state IN ('FREE', 'LEASED')"),
        postgresql_where=sa.text("state IN ('FREE', 'LEASED')"),
    )
    op.create_table(
        "pieces",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("tensor", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bits", sa.Integer(), nullable=True),
        sa.Column("sum_w2", sa.Double(), nullable=True),
        sa.Column("sum_e2", sa.Double(), nullable=True),
        sa.Column("sum_wq", sa.Double(), nullable=True),
        sa.Column("sum_q2", sa.Double(), nullable=True),
        sa.Column("max_abs", sa.Double(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id", "tensor"],
            ["tensors.job_id", "tensors.idx"],
            name="fk_pieces_job_id_tensor",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "tensor", "seq", name="pk_pieces"),
    )
    op.create_index("ix_pieces_job_id_seq", "pieces", ["job_id", "seq"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_pieces_job_id_seq", table_name="pieces")
    op.drop_table("pieces")
    op.drop_index(
        "ix_units_open",
        table_name="units",
        sqlite_where=sa.text("state IN ('FREE', 'LEASED')"),
        postgresql_where=sa.text("state IN ('FREE', 'LEASED')"),
    )
    op.drop_table("units")
    op.drop_index("ix_tensors_job_id_state", table_name="tensors")
    op.drop_table("tensors")
    op.drop_index("ix_job_labels_key_value", table_name="job_labels")
    op.drop_table("job_labels")
    op.drop_table("events")
    op.drop_index("ix_jobs_tenant_id", table_name="jobs")
    op.drop_index("ix_jobs_state_deadline", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_idempotency_create_time", table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_table("api_keys")

"""Batches and their lines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_OPEN = sa.text("end_time IS NULL")
_GONE = sa.text("state IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("doing", sa.String(length=16), nullable=True),
        sa.Column("doing_time", _TIME, nullable=True),
        sa.Column("doing_after", sa.String(length=64), nullable=True),
        sa.Column("window_s", sa.Integer(), nullable=True),
        sa.Column("expired", sa.Boolean(), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("update_time", _TIME, nullable=False),
        sa.Column("cancel_time", _TIME, nullable=True),
        sa.Column("expire_time", _TIME, nullable=True),
        sa.Column("end_time", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_index("ix_batches_tenant_id", "batches", ["tenant", "id"], unique=False)
    op.create_index(
        "ix_batches_open",
        "batches",
        ["id"],
        unique=False,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("kept", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_batch_lines_batch_id"),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_batch_lines"),
    )
    op.create_index("ix_batch_lines_job_id", "batch_lines", ["job_id"], unique=False)
    op.create_index(
        "ix_batch_lines_gone",
        "batch_lines",
        ["batch_id", "state"],
        unique=False,
        sqlite_where=_GONE,
        postgresql_where=_GONE,
    )
    op.create_index("ix_jobs_batch_id_state", "jobs", ["batch_id", "state"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_jobs_batch_id_state", table_name="jobs")
    op.drop_table("batch_lines")
    op.drop_table("batches")

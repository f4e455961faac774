"""How long a job may wait, what it used, when it is deleted, and with what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INDEXES = ("expire_time", "delete_time")


def upgrade() -> None:
    for column in _columns():
        op.add_column("jobs", column)
    op.execute("UPDATE jobs SET queue_time = create_time")
    for name in _INDEXES:
        op.create_index(f"ix_jobs_{name}", "jobs", [name], unique=False)
    op.create_index("ix_jobs_tenant_create_time", "jobs", ["tenant", "create_time"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_jobs_tenant_create_time", table_name="jobs")
    for name in _INDEXES:
        op.drop_index(f"ix_jobs_{name}", table_name="jobs")
    for column in reversed(_columns()):
        op.drop_column("jobs", column.name)


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("queue_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_pending_s", sa.Integer(), nullable=True),
        sa.Column("retain_days", sa.Integer(), nullable=True),
        sa.Column("retain_artifacts", sa.Boolean(), nullable=True),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delete_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delete_artifacts", sa.Boolean(), nullable=True),
        sa.Column("cpu_s", sa.Double(), nullable=False, server_default="0"),
        sa.Column("wall_s", sa.Double(), nullable=False, server_default="0"),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("peak_rss_bytes", sa.BigInteger(), nullable=False, server_default="0"),
    ]

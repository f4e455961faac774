"""Jobs may belong to a batch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("batch_id", sa.String(length=64), nullable=True))
    op.create_index("ix_jobs_batch_id_id", "jobs", ["batch_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_jobs_batch_id_id", table_name="jobs")
    op.drop_column("jobs", "batch_id")

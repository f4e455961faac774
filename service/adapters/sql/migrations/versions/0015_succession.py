"""What is at a place after a job, and who wrote there before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("leftovers", sa.JSON(), nullable=True))
    op.create_index("ix_jobs_tenant_output", "jobs", ["tenant", "output"], unique=False)
    op.create_index("ix_parts_key", "parts", ["key"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_parts_key", table_name="parts")
    op.drop_index("ix_jobs_tenant_output", table_name="jobs")
    op.drop_column("jobs", "leftovers")

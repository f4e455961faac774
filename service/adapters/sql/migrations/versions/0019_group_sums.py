"""The error of a layer's output in each time group, where it was calibrated."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pieces", sa.Column("group_sums", sa.LargeBinary(), nullable=True))
    op.add_column("candidates", sa.Column("group_sums", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("candidates", "group_sums")
    op.drop_column("pieces", "group_sums")

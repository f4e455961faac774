"""The error of a layer's output, where it was calibrated."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pieces", sa.Column("out_w2", sa.Double(), nullable=True))
    op.add_column("pieces", sa.Column("out_e2", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("pieces", "out_e2")
    op.drop_column("pieces", "out_w2")

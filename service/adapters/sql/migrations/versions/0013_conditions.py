"""What the conditions of jobs are told from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("responding_since", _TIME, nullable=True))
    op.add_column("jobs", sa.Column("degraded_time", _TIME, nullable=True))
    op.add_column("units", sa.Column("error_time", _TIME, nullable=True))


def downgrade() -> None:
    op.drop_column("units", "error_time")
    op.drop_column("jobs", "degraded_time")
    op.drop_column("jobs", "responding_since")

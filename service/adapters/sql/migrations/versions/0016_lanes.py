"""Units know where they wait, so that the next one is found however many there are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_INDEXED = ["lane", "create_time", "job_id", "queue_time", "not_before"]
_NEVER = "1970-01-01 00:00:00"


def upgrade() -> None:
    for column in _columns():
        op.add_column("units", column)
    op.execute(
        """
        UPDATE units SET
          create_time = (SELECT create_time FROM jobs WHERE jobs.id = units.job_id),
          queue_time =
            (SELECT COALESCE(queue_time, create_time) FROM jobs WHERE jobs.id = units.job_id),
          lane = (
            SELECT
              CASE
                WHEN units.kind = 'cleanup' THEN '0:'
                WHEN units.kind = 'plan' AND jobs.state = 'QUEUED' THEN '2:'
                ELSE '1:'
              END || CAST(jobs.priority AS VARCHAR(16)) || ':' || jobs.tenant
            FROM jobs WHERE jobs.id = units.job_id
          )
        """
    )
    free = sa.text("state = 'FREE'")
    op.create_index(
        "ix_units_lane", "units", _INDEXED, unique=False, sqlite_where=free, postgresql_where=free
    )


def downgrade() -> None:
    op.drop_index("ix_units_lane", table_name="units")
    for column in reversed(_columns()):
        op.drop_column("units", column.name)


def _columns() -> list[sa.Column[object]]:
    time = sa.DateTime(timezone=True)
    return [
        sa.Column("lane", sa.String(length=160), nullable=False, server_default=""),
        sa.Column("create_time", time, nullable=False, server_default=_NEVER),
        sa.Column("queue_time", time, nullable=False, server_default=_NEVER),
    ]

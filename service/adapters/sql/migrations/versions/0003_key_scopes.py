"""What API keys allow, until when, and their rotation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Keys from before there were scopes go on doing what they could.
_ALL_OF_A_TENANT = '["jobs:read", "jobs:write", "artifacts:read", "admin"]'


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as table:
        table.add_column(sa.Column("previous_sha256", sa.String(length=64)))
        table.add_column(sa.Column("previous_until", sa.DateTime(timezone=True)))
        table.add_column(sa.Column("scopes", sa.JSON()))
        table.add_column(sa.Column("expire_time", sa.DateTime(timezone=True)))
        table.add_column(sa.Column("last_use_time", sa.DateTime(timezone=True)))
    op.execute(f"UPDATE api_keys SET scopes = '{_ALL_OF_A_TENANT}'")  # noqa: S608 - a constant
    with op.batch_alter_table("api_keys") as table:
        table.alter_column("scopes", existing_type=sa.JSON(), nullable=False)
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant", "id"], unique=False)

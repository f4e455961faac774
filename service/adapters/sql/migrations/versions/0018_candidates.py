"""Errors of the ways to store a tensor, from which a budget chooses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "candidates",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("output", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tensor", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("candidate", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        *(
            sa.Column(name, sa.Double(), nullable=True)
            for name in (*("sum_w2", "sum_e2", "sum_wq", "sum_q2", "max_abs", "out_w2", "out_e2"),)
        ),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id", "output", "tensor"],
            ["tensors.job_id", "tensors.output", "tensors.idx"],
            name="fk_candidates_job_id_output_tensor",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "job_id", "output", "tensor", "candidate", "seq", name="pk_candidates"
        ),
    )
    op.create_index("ix_candidates_job_id_seq", "candidates", ["job_id", "seq"], unique=False)


def downgrade() -> None:
    op.drop_table("candidates")

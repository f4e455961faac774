"""Several outputs of one job: tensors, measurements and parts belong to an output."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "places",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_places_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name="pk_places"),
    )
    op.create_index("ix_places_job_id", "places", ["job_id"], unique=False)
    _move_places()
    _move_parts()
    # Tables are made anew: keys cannot be changed in place on SQLite, and dropping a table that
    # others point to would take their rows along.
    op.execute("CREATE TABLE old_pieces AS SELECT * FROM pieces")
    op.execute("CREATE TABLE old_tensors AS SELECT * FROM tensors")
    op.drop_table("pieces")
    op.drop_table("tensors")
    _create_tensors()
    _create_pieces()
    op.execute(
        'INSERT INTO tensors (output, job_id, idx, state, bits, level_bits, "row", history) '
        'SELECT 0, job_id, idx, state, bits, level_bits, "row", history FROM old_tensors'
    )
    op.execute(
        "INSERT INTO pieces (output, job_id, tensor, seq, bits, sum_w2, sum_e2, sum_wq, sum_q2, "
        "max_abs, count, stored_bytes) SELECT 0, job_id, tensor, seq, bits, sum_w2, sum_e2, "
        "sum_wq, sum_q2, max_abs, count, stored_bytes FROM old_pieces"
    )
    op.drop_table("old_tensors")
    op.drop_table("old_pieces")
    for table, column in (
        ("jobs", "bytes_read"), ("units", "bytes_read"), ("units", "bytes_read_before")
    ):  # fmt: skip
        op.add_column(table, sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"))


def _move_places() -> None:
    connection = op.get_bind()
    active = sa.text(
        "SELECT id, output FROM jobs "
        "WHERE output IS NOT NULL AND state IN ('QUEUED', 'RUNNING', 'CANCELLING')"
    )
    for job_id, output in connection.execute(active).all():
        digest = hashlib.sha256(output.encode()).hexdigest()
        connection.execute(
            sa.text("INSERT INTO places (sha256, job_id) VALUES (:sha256, :job_id)"),
            {"sha256": digest, "job_id": job_id},
        )
    op.drop_index("uq_jobs_output", table_name="jobs")


def _move_parts() -> None:
    op.create_table(
        "parts",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("output", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("nbytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("etag", sa.String(length=256), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_parts_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "output", "seq", name="pk_parts"),
    )
    op.execute(
        "INSERT INTO parts (job_id, output, seq, key, nbytes, sha256, etag, batches) "
        "SELECT job_id, 0, seq, part_key, part_nbytes, part_sha256, part_etag, part_batches "
        "FROM units WHERE part_key IS NOT NULL"
    )
    for name in ("key", "nbytes", "sha256", "etag", "batches"):
        op.drop_column("units", f"part_{name}")


def _create_tensors() -> None:
    op.create_table(
        "tensors",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("output", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("bits", sa.Integer(), nullable=False),
        sa.Column("level_bits", sa.Integer(), nullable=True),
        sa.Column("row", sa.JSON(), nullable=False),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_tensors_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "output", "idx", name="pk_tensors"),
    )
    op.create_index("ix_tensors_job_id_state", "tensors", ["job_id", "state"], unique=False)


def _create_pieces() -> None:
    op.create_table(
        "pieces",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("output", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tensor", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bits", sa.Integer(), nullable=True),
        sa.Column("sum_w2", sa.Double(), nullable=True),
        sa.Column("sum_e2", sa.Double(), nullable=True),
        sa.Column("sum_wq", sa.Double(), nullable=True),
        sa.Column("sum_q2", sa.Double(), nullable=True),
        sa.Column("max_abs", sa.Double(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id", "output", "tensor"],
            ["tensors.job_id", "tensors.output", "tensors.idx"],
            name="fk_pieces_job_id_output_tensor",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "output", "tensor", "seq", name="pk_pieces"),
    )
    op.create_index("ix_pieces_job_id_seq", "pieces", ["job_id", "seq"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("jobs with several outputs do not fit the older tables")

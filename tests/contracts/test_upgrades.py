"""A database with rows in it, brought from an older version to this one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from service.adapters.sql import make_engine, migrate
from service.adapters.sql.engine import MIGRATIONS, Database
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, TensorState
from tests.contracts.ledgers import RESOLVED, Bench, HandClock, part, tensor

NOW = datetime(2030, 1, 1, 11, 0)  # noqa: DTZ001 - as the older version wrote it on SQLite
REQUEST = {
    "source": {"connection": "lab", "prefix": "m/"},
    "output": {"connection": "lab", "prefix": "o/"},
}
ENDED, HALF = "job_0000000000000000000000ended", "job_00000000000000000000000half"
SUMS = {
    "bits": 4, "sum_w2": 2.0, "sum_e2": 0.25, "sum_wq": 1.5, "sum_q2": 1.25, "max_abs": 0.5,
    "count": 64, "stored_bytes": 40,
}  # fmt: skip


class Older:
    """A database at an older revision, whose tables are known from itself alone."""

    def __init__(self, url: str, revision: str) -> None:
        self.engine = make_engine(url)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("path_separator", "os")
        with Database(self.engine).write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        self._tables = sa.MetaData()
        self._tables.reflect(self.engine)

    def add(self, table: str, **values: Any) -> None:
        """A row; what must not be null and is not given is empty or 0."""
        columns = self._tables.tables[table].columns
        row = {
            c.name: _empty(c.type) for c in columns if not c.nullable and c.server_default is None
        }
        with self.engine.begin() as connection:
            connection.execute(sa.insert(self._tables.tables[table]), [row | values])


def _empty(kind: sa.types.TypeEngine[Any]) -> Any:
    if isinstance(kind, sa.JSON):
        return []
    if isinstance(kind, sa.DateTime):
        return NOW
    if isinstance(kind, sa.Boolean):
        return False
    return "" if isinstance(kind, sa.String) else 0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def older(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[str, Older]]:
    """The address and the tables of revision 0010, before jobs had several outputs."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/old.db"
    else:
        url = request.getfixturevalue("postgres_database")
    made = Older(url, "0010")
    yield url, made
    made.engine.dispose()


def _job(older: Older, job_id: str, state: str, done: int) -> None:
    """A job of two units and two tensors, with `done` of them made."""
    older.add(
        "jobs", id=job_id, tenant="acme", state=state, request=REQUEST, resolved=RESOLVED,
        labels={}, output="lab:o/", planned=True, attempt=1, tensors_total=2, tensors_done=done,
        units_total=2, units_done=done, bytes_total=200, bytes_done=100 * done, queue_time=NOW,
        start_time=NOW,
    )  # fmt: skip
    publish = "DONE" if state == "SUCCEEDED" else "HELD"
    for kind, its in (("plan", "DONE"), ("publish", publish), ("cleanup", "HELD")):
        older.add("units", job_id=job_id, kind=kind, seq=0, tenant="acme", state=its)
    for seq in range(2):
        made = seq < done
        values = dataclasses.asdict(tensor(seq))
        row = {k: v for k, v in values.items() if k not in ("index", "state", "history", "output")}
        state = "DONE" if made else "PENDING"
        older.add("tensors", job_id=job_id, idx=seq, state=state, bits=4, row=row)
        older.add("pieces", job_id=job_id, tensor=seq, seq=seq, **(SUMS if made else {}))
        stored = dataclasses.asdict(part(seq))
        told = {f"part_{k}": stored[k] for k in ("key", "nbytes", "sha256", "etag", "batches")}
        older.add(
            "units", job_id=job_id, kind="quantize", seq=seq, tenant="acme", source_bytes=100,
            state="DONE" if made else "FREE", **(told if made else {}),
        )  # fmt: skip


def test_jobs_from_before_several_outputs(older: tuple[str, Older], clock: HandClock) -> None:
    url, tables = older
    _job(tables, ENDED, "SUCCEEDED", 2)
    _job(tables, HALF, "RUNNING", 1)
    migrate(url)
    bench = Bench(tables.engine, url, clock)
    ledger = bench.ledger

    assert ledger.get_job(ENDED).state is JobState.SUCCEEDED
    assert ledger.parts(ENDED) == [part(0), part(1)]
    assert ledger.parts(HALF) == [part(0)]
    assert ledger.tensors(HALF) == [tensor(0, TensorState.DONE), tensor(1)]
    with tables.engine.connect() as connection:
        pieces = connection.execute(sa.text("SELECT * FROM pieces ORDER BY job_id, seq")).mappings()
        found = {(row["job_id"], row["seq"]): dict(row) for row in pieces}
        places = connection.execute(sa.text("SELECT sha256, job_id FROM places")).all()
    assert set(found) == {(job, seq) for job in (ENDED, HALF) for seq in range(2)}
    empty = dict.fromkeys(SUMS)
    since = dict.fromkeys(
        ("out_w2", "out_e2", "group_sums")
    )  # of jobs with calibration, which there were none of
    for (job, seq), row in found.items():
        sums = empty if (job, seq) == (HALF, 1) else SUMS
        assert row == {"job_id": job, "output": 0, "tensor": seq, "seq": seq} | sums | since
    # Only who still writes holds the place.
    assert places == [(hashlib.sha256(b"lab:o/").hexdigest(), HALF)]
    with pytest.raises(ArrowQuantError, match="output_in_use"):
        bench.submit(request=REQUEST)

    # The half-made job goes on where it stood, and lets go of its place.
    assert [(claim.kind.value, claim.seq) for claim in bench.drain()] == [
        ("quantize", 1),
        ("publish", 0),
    ]
    assert ledger.get_job(HALF).state is JobState.SUCCEEDED
    assert ledger.parts(HALF) == [part(0), part(1)]
    bench.submit(request=REQUEST)
    # Pieces go with their tensors, tensors with their job.
    with tables.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM jobs WHERE id = :id"), {"id": ENDED})
        left = connection.execute(sa.text("SELECT DISTINCT job_id FROM pieces")).scalars().all()
    assert left == [HALF]

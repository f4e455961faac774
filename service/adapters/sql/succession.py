"""Who else writes, or has written, to the place of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import exists, insert, select, update

from service.adapters.sql.life import count_units
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.places import places_of
from service.adapters.sql.records import to_job
from service.adapters.sql.tables import UnitState, jobs, parts, pieces, places, tensors, units
from service.domain.job import JobRecord, JobState, TensorState, UnitKind
from service.domain.succession import Adoption

_MANY: Final = 500  # values in one IN list
_UNFINISHED: Final = [
    state.value for state in (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)
]
_MEASURED: Final = (
    "bits", "sum_w2", "sum_e2", "sum_wq", "sum_q2", "max_abs", "count", "stored_bytes",
    "out_w2", "out_e2", "group_sums",
)  # fmt: skip


class SuccessionVerbs(Verbs):
    """What has to be known before a place is tidied up or taken over."""

    def place_busy(self, job_id: str) -> bool:
        with self._db.read() as connection:
            query = select(jobs.c.output, jobs.c.resolved).where(jobs.c.id == job_id)
            row = connection.execute(query).one()
            mine = places.c.sha256.in_(places_of(row.output, row.resolved))
            taken = select(exists().where(mine, places.c.job_id != job_id))
            return bool(connection.execute(taken).scalar())

    def owned_elsewhere(self, job_id: str, keys: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with self._db.read() as connection:
            request = connection.execute(select(jobs.c.request).where(jobs.c.id == job_id)).scalar()
            connection_name = (request or {}).get("output", {}).get("connection")
            for start in range(0, len(keys), _MANY):
                query = (
                    select(parts.c.key, jobs.c.request)
                    .join(jobs, jobs.c.id == parts.c.job_id)
                    .where(parts.c.key.in_(keys[start : start + _MANY]))
                    .where(jobs.c.id != job_id, jobs.c.delete_time.is_(None))
                )
                found |= {
                    key
                    for key, other in connection.execute(query)
                    if other.get("output", {}).get("connection") == connection_name
                }
        return found

    def predecessor(self, job_id: str) -> JobRecord | None:
        with self._db.read() as connection:
            me = connection.execute(
                select(jobs.c.tenant, jobs.c.output).where(jobs.c.id == job_id)
            ).one()
            query = (
                select(jobs)
                .where(jobs.c.tenant == me.tenant, jobs.c.output == me.output, jobs.c.id != job_id)
                .where(jobs.c.state.in_(_UNFINISHED), jobs.c.delete_time.is_(None))
                .where(jobs.c.planned)
                .order_by(jobs.c.update_time.desc(), jobs.c.id.desc())
                .limit(1)
            )
            row = connection.execute(query).mappings().first()
        return None if row is None else to_job(row, self._rules.max_attempts)


def adopt(job: LockedJob, adoption: Adoption) -> None:
    """Take over measurements, levels and parts of another job with the same plan, as if this were
    a retry of it."""
    _copy_tensors(job, adoption.job_id)
    _copy_errors(job, adoption.job_id)
    values: list[dict[str, Any]] = [
        {name: getattr(part, name) for name in part.__slots__} | {"job_id": job.id}
        for part in adoption.parts
    ]
    for start in range(0, len(values), _MANY):
        job.connection.execute(insert(parts), values[start : start + _MANY])
    lacking = select(pieces.c.seq).where(
        pieces.c.job_id == job.id,
        ~exists().where(
            parts.c.job_id == job.id,
            parts.c.seq == pieces.c.seq,
            parts.c.output == pieces.c.output,
        ),
    )
    job.connection.execute(
        job.update_units(UnitKind.QUANTIZE)
        .where(units.c.seq.not_in(lacking))
        .values(state=UnitState.DONE, bytes_done=units.c.source_bytes)
    )
    count_units(job)


def _copy_tensors(job: LockedJob, other: str) -> None:
    # A tensor that is not finished is measured again with whatever unit of it is made.
    changed = (tensors.c.state != TensorState.PENDING.value) | tensors.c.level_bits.is_not(None)
    query = select(tensors).where(tensors.c.job_id == other, changed)
    for row in job.connection.execute(query).mappings().all():
        names = ("state", "row", "history", "level_bits", "bits")
        job.connection.execute(
            update(tensors)
            .where(
                tensors.c.job_id == job.id,
                tensors.c.output == row["output"],
                tensors.c.idx == row["idx"],
            )
            .values({name: row[name] for name in names})
        )


def _copy_errors(job: LockedJob, other: str) -> None:
    query = select(pieces).where(pieces.c.job_id == other, pieces.c.bits.is_not(None))
    for row in job.connection.execute(query).mappings().all():
        keys = ("output", "tensor", "seq")
        job.connection.execute(
            update(pieces)
            .where(pieces.c.job_id == job.id, *(pieces.c[name] == row[name] for name in keys))
            .values({name: row[name] for name in _MEASURED})
        )

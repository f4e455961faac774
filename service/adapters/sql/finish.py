"""Finishing: units, tensors, the artifact, or the job without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import insert, select, update

from service.adapters.sql.levels import forget_all_parts, forget_parts, unit_todo
from service.adapters.sql.life import (
    NO_ERROR,
    NO_LEASE,
    count_tensors,
    fail,
    finish_cleanup,
    free_cleanup,
    note_progress,
    settle,
)
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.quotas import note_usage
from service.adapters.sql.records import tensor_values
from service.adapters.sql.tables import UnitState, parts, tensors, units
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import Claim, EventType, JobState, PartRow, Phase, TensorRow, UnitKind
from service.domain.outputs import output_ids


class FinishVerbs(Verbs):
    """Ends of units and jobs."""

    def unit_done(self, claim: Claim, part: PartRow, levels: dict[int, int]) -> bool:
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if unit["state"] == UnitState.DONE:
                return True
            todo = unit_todo(job, unit["seq"])
            if todo.pop(part.output, levels) != levels:
                return False
            _store_part(job, part)
            if not todo:
                done = {"state": UnitState.DONE, "bytes_done": unit["source_bytes"]} | NO_ERROR
                job.connection.execute(
                    job.update_units(UnitKind.QUANTIZE)
                    .where(units.c.seq == unit["seq"], units.c.fence == claim.fence)
                    .values(NO_LEASE | done)
                )
            note_progress(job, self._lease_s)
            settle(job)
            return True

    def tensors_done(self, claim: Claim, rows: Sequence[TensorRow]) -> None:
        with self._held(claim, also=[UnitState.DONE]) as (job, _):
            if job.state is not JobState.RUNNING:
                raise LeaseLost(claim.job_id)
            for row in rows:
                _finish_tensor(job, row)
            count_tensors(job)

    def set_phase(self, claim: Claim, phase: str) -> None:
        with self._held(claim) as (job, _):
            job.enter(Phase(phase))

    def publish_done(
        self,
        claim: Claim,
        summary: dict[str, Any],
        leftovers: Sequence[tuple[str, str]] = (),
        keep_s: float = 0,
    ) -> None:
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if unit["state"] == UnitState.DONE:
                return
            done = NO_LEASE | {"state": UnitState.DONE}
            job.connection.execute(job.update_units(UnitKind.PUBLISH).values(done))
            job.emit(EventType.ARTIFACT, summary)
            job.move(JobState.SUCCEEDED, summary=summary, bytes_done=job["bytes_total"])
            note_usage(
                job.connection,
                job["tenant"],
                job.now,
                jobs_succeeded=1,
                bytes_in=job["bytes_total"],
                bytes_out=job["bytes_written"],
            )
            if leftovers:
                job.set(leftovers=[list(one) for one in leftovers])
                free_cleanup(job, job.now + timedelta(seconds=keep_s))

    def reopen_unit(self, claim: Claim, seq: int, reason: str, output: int = 0) -> None:
        # The first call gives the claim up (HELD); the publisher may go on to name more parts.
        with self._held(claim, also=[UnitState.HELD]) as (job, _):
            if job.state is not JobState.RUNNING:
                raise LeaseLost(claim.job_id)
            if not forget_parts(job, output, [seq]):
                return
            held = NO_LEASE | {"state": UnitState.HELD}
            job.connection.execute(job.update_units(UnitKind.PUBLISH).values(held))
            job.emit(EventType.WARNING, {"code": "part_reopened", "unit": seq, "reason": reason})
            job.enter(Phase.QUANTIZING)

    def cleanup_done(self, claim: Claim, *, removed: bool = False) -> None:
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if removed and unit["state"] != UnitState.DONE:
                forget_all_parts(job)
            job.set(leftovers=None)
            finish_cleanup(job)

    def fail_job(self, claim: Claim, error: ArrowQuantError) -> None:
        with self._held(claim) as (job, _):
            if claim.kind is UnitKind.CLEANUP:
                # The job has ended already; all that failed is tidying up after it.
                finish_cleanup(job, error.as_dict())
            else:
                fail(job, error)


def _store_part(job: LockedJob, part: PartRow) -> None:
    """Once: the same part again is what a repeated call brings."""
    values = {"job_id": job.id} | asdict(part)
    keys = {name: values[name] for name in ("job_id", "output", "seq")}
    found = job.connection.execute(
        update(parts)
        .where(*(parts.c[name] == value for name, value in keys.items()))
        .values(values)
    )
    if not found.rowcount:
        job.connection.execute(insert(parts).values(values))


def _finish_tensor(job: LockedJob, row: TensorRow) -> None:
    this = (
        tensors.c.job_id == job.id, tensors.c.output == row.output, tensors.c.idx == row.index
    )  # fmt: skip
    before = job.connection.execute(select(tensors).where(*this)).mappings().one()
    values = tensor_values(row)
    # What escalations noted stays, unless the worker tells the whole story itself.
    values["history"] = values["history"] or before["history"]
    if all(_same(before[name], value) for name, value in values.items()):
        return  # a unit that was done again has nothing new to say
    job.connection.execute(update(tensors).where(*this).values(values))
    output = output_ids(job["resolved"])[row.output]
    told = asdict(row) | {"history": values["history"], "output": output}
    job.emit(EventType.TENSOR, told)


def _same(stored: Any, value: Any) -> bool:
    # As the database keeps it: infinity, for one, comes back as null.
    return bool(orjson.loads(orjson.dumps(value)) == stored)

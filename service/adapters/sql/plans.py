"""Storing a plan, or holding it against the one that is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Table, delete, func, insert, select

from service.adapters.sql.lanes import lane_of
from service.adapters.sql.life import NO_LEASE, advance, count_tensors, count_units, hold_units
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.quotas import note_usage
from service.adapters.sql.records import tensor_values
from service.adapters.sql.succession import adopt
from service.adapters.sql.tables import UnitState, candidates, parts, pieces, tensors, units
from service.domain.errors import ArrowQuantError
from service.domain.job import Claim, EventType, JobState, TensorRow, UnitKind, UnitPlan
from service.domain.succession import Adoption

_BATCH = 1000
# What a retry may find changed: then all parts are made again.
_MAY_CHANGE = frozenset({"engine", "first_parts", "allocations"})
# Units that a plan makes, and makes anew.
_PLANNED = (UnitKind.QUANTIZE.value, UnitKind.ANALYZE.value, UnitKind.ALLOCATE.value)


class PlanVerbs(Verbs):
    """The end of planning."""

    def plan_done(
        self,
        claim: Claim,
        resolved: dict[str, Any],
        tensors: Iterable[TensorRow],
        units: Iterable[UnitPlan],
        warnings: Sequence[dict[str, Any]] = (),
        adoption: Adoption | None = None,
        *,
        analyze: bool = False,
    ) -> None:
        # Made before the job is locked: the caller may plan while it yields.
        rows, plan = list(tensors), list(units)
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if unit["state"] == UnitState.DONE:
                return
            fence, found = 0, list(warnings)
            if job["planned"]:
                _compare_resolved(job, resolved)
                if all(job["resolved"].get(name) == resolved.get(name) for name in _MAY_CHANGE):
                    _compare_units(job, plan)
                    _begin(job, found)
                    return
                found += _other_engine(job, resolved)
                fence = _forget_plan(job)
            _store_tensors(job, rows)
            _store_units(job, plan, sorted({row.output for row in rows}), fence)
            if analyze:
                _store_analysis(job, plan, fence)
            job.set(resolved=resolved, planned=True)
            if adoption is not None:
                adopt(job, adoption)
            _begin(job, found)

    def already_done(
        self,
        claim: Claim,
        resolved: dict[str, Any],
        tensors: Iterable[TensorRow],
        summary: dict[str, Any],
    ) -> None:
        rows = list(tensors)
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if unit["state"] == UnitState.DONE:
                return
            hold_units(job)
            _forget_plan(job)
            _store_tensors(job, rows)
            count_tensors(job)
            done = NO_LEASE | {"state": UnitState.DONE, "fence": claim.fence}
            job.connection.execute(job.update_units(UnitKind.PLAN).values(done))
            job.set(resolved=resolved)
            job.emit(EventType.ARTIFACT, summary)
            job.move(JobState.SUCCEEDED, summary=summary)


def _begin(job: LockedJob, warnings: Sequence[dict[str, Any]]) -> None:
    done = NO_LEASE | {"state": UnitState.DONE}
    job.connection.execute(job.update_units(UnitKind.PLAN).values(done))
    count_units(job)
    count_tensors(job)
    if job["counted_bytes"] is None:
        # Accepted before its source could be read: its bytes are of the day they become known.
        once = _source_bytes(job)
        note_usage(job.connection, job["tenant"], job.now, bytes_planned=once)
        job.set(counted_bytes=once)
    job.set(active_s=0.0, bytes_before=job["bytes_done"], progress_time=job.now)
    advance(job)
    for warning in warnings:
        if warning not in job["warnings"]:
            job.set(warnings=[*job["warnings"], warning])
            job.emit(EventType.WARNING, warning)


def _source_bytes(job: LockedJob) -> int:
    """Of the parts to be made: what is read for them once."""
    query = select(func.sum(units.c.source_bytes)).where(
        units.c.job_id == job.id, units.c.kind == UnitKind.QUANTIZE.value
    )
    return int(job.connection.execute(query).scalar() or 0)


def _store_tensors(job: LockedJob, rows: Iterable[TensorRow]) -> None:
    values = ({"job_id": job.id, "bits": row.bits} | tensor_values(row) for row in rows)
    _insert(job, tensors, values)


def _unit_row(
    job: LockedJob, kind: UnitKind, seq: int, fence: int, source_bytes: int
) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "kind": kind.value,
        "seq": seq,
        "tenant": job["tenant"],
        "state": UnitState.HELD.value,
        "fence": fence,
        "source_bytes": source_bytes,
        "lane": lane_of(kind, job["priority"], job["tenant"]),
        "create_time": job["create_time"],
        "queue_time": job["queue_time"] or job["create_time"],
    }


def _store_analysis(job: LockedJob, plan: list[UnitPlan], fence: int) -> None:
    """The same cut as for the parts, and one unit for what comes of it."""
    cut = (_unit_row(job, UnitKind.ANALYZE, u.seq, fence, u.source_bytes) for u in plan)
    _insert(job, units, cut)
    _insert(job, units, iter([_unit_row(job, UnitKind.ALLOCATE, 0, fence, 0)]))


def _store_units(job: LockedJob, plan: list[UnitPlan], outputs: list[int], fence: int = 0) -> None:
    kind = UnitKind.QUANTIZE
    _insert(job, units, (_unit_row(job, kind, u.seq, fence, u.source_bytes) for u in plan))
    _insert(
        job,
        pieces,
        (
            {"job_id": job.id, "output": output, "tensor": tensor, "seq": unit.seq}
            for output in outputs
            for unit in plan
            # A tensor may come in several pieces of one unit.
            for tensor in sorted(set(unit.tensors))
        ),
    )


def _insert(job: LockedJob, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    while batch := list(islice(rows, _BATCH)):
        job.connection.execute(insert(table), batch)


def _compare_resolved(job: LockedJob, resolved: dict[str, Any]) -> None:
    new, old = orjson.loads(orjson.dumps(resolved, option=orjson.OPT_NON_STR_KEYS)), job["resolved"]
    keys = sorted(k for k in new.keys() | old.keys() if new.get(k) != old.get(k))
    if set(keys) - _MAY_CHANGE:
        raise _changed({"differs": keys})


def _other_engine(job: LockedJob, resolved: dict[str, Any]) -> list[dict[str, Any]]:
    """A warning, if anything was finished that now is made again."""
    if not job["units_done"]:
        return []
    old, new = job["resolved"].get("engine") or {}, resolved.get("engine") or {}
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if not names:  # others took the names of its parts meanwhile
        return []
    told = ", ".join(f"{name} {old.get(name, '-')} is now {new.get(name, '-')}" for name in names)
    message = f"{job['units_done']} finished parts are made again, since {told}"
    return [{"code": "engine_changed", "message": message}]


def _forget_plan(job: LockedJob) -> int:
    """Remove what was planned and finished; a fence that no former holder of a unit has."""
    mine = units.c.job_id == job.id, units.c.kind.in_(_PLANNED)
    fence = job.connection.execute(select(func.max(units.c.fence)).where(*mine)).scalar() or 0
    read = select(func.sum(units.c.bytes_read)).where(*mine)
    before = job.connection.execute(read).scalar() or 0
    job.connection.execute(  # what was read stays counted
        job.update_units(UnitKind.PLAN).values(
            bytes_read=units.c.bytes_read + before,
            bytes_read_before=units.c.bytes_read_before + before,
        )
    )
    for table in (parts, pieces, candidates, tensors):
        job.connection.execute(delete(table).where(table.c.job_id == job.id))
    job.connection.execute(delete(units).where(*mine))
    job.set(bytes_done=0)
    return int(fence) + 1


def _compare_units(job: LockedJob, plan: list[UnitPlan]) -> None:
    kept: dict[int, tuple[int, set[int]]] = {
        seq: (source_bytes, set())
        for seq, source_bytes in job.connection.execute(
            select(units.c.seq, units.c.source_bytes).where(
                units.c.job_id == job.id, units.c.kind == UnitKind.QUANTIZE
            )
        )
    }
    held = select(pieces.c.seq, pieces.c.tensor).where(pieces.c.job_id == job.id)
    for seq, tensor in job.connection.execute(held):
        kept[seq][1].add(tensor)
    new = {unit.seq: (unit.source_bytes, set(unit.tensors)) for unit in plan}
    if new != kept:
        raise _changed({"units": len(new), "units_before": len(kept)})


def _changed(where: dict[str, Any]) -> ArrowQuantError:
    return ArrowQuantError(
        "source_changed",
        "the plan differs from the one this job began with",
        "Finished parts would not fit: submit a new job, or start the command again.",
        where,
    )

"""Escalation: which width a tensor has now, and who has measured it at that width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import bindparam, func, select, update

from service.adapters.sql.life import UNTRIED, count_units
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.records import part_values, to_piece
from service.adapters.sql.tables import UnitState, pieces, tensors, units
from service.domain.job import Claim, PieceError, TensorState, UnitKind

_level = func.coalesce(tensors.c.level_bits, tensors.c.bits)


class LevelVerbs(Verbs):
    """The verbs of the quality gate."""

    def unit_errors(
        self, claim: Claim, errors: Sequence[PieceError]
    ) -> dict[int, list[PieceError]]:
        with self._held(claim) as (job, unit):
            if errors:
                job.connection.execute(
                    update(pieces).where(
                        pieces.c.job_id == job.id,
                        pieces.c.seq == unit["seq"],
                        pieces.c.tensor == bindparam("of_tensor"),
                    ),
                    [_piece_values(error) for error in errors],
                )
            return _measured(job, unit["seq"])

    def escalate(
        self, claim: Claim, tensor: int, from_bits: int, to_bits: int, entry: dict[str, Any]
    ) -> bool:
        with self._held(claim) as (job, unit):
            this = (tensors.c.job_id == job.id, tensors.c.idx == tensor)
            history = job.connection.execute(
                select(tensors.c.history).where(*this, _level == from_bits)
            ).scalar()
            if history is None:
                return False
            job.connection.execute(
                update(tensors)
                .where(*this)
                .values(
                    level_bits=to_bits,
                    state=TensorState.PENDING.value,
                    history=[*history, entry],
                )
            )
            with_rows = select(pieces.c.seq).where(
                pieces.c.job_id == job.id, pieces.c.tensor == tensor, pieces.c.seq != unit["seq"]
            )
            job.connection.execute(
                job.update_units(UnitKind.QUANTIZE)
                .where(units.c.seq.in_(with_rows), units.c.state == UnitState.DONE)
                .values(UNTRIED | part_values(None) | {"state": UnitState.FREE, "bytes_done": 0})
            )
            count_units(job)
            return True

    def unit_levels(self, claim: Claim) -> dict[int, int]:
        with self._held(claim) as (job, unit):
            return unit_levels(job, unit["seq"])


def unit_levels(job: LockedJob, seq: int) -> dict[int, int]:
    """Escalated tensors of a unit and their widths."""
    query = (
        select(tensors.c.idx, tensors.c.level_bits)
        .join(pieces, (pieces.c.job_id == tensors.c.job_id) & (pieces.c.tensor == tensors.c.idx))
        .where(pieces.c.job_id == job.id, pieces.c.seq == seq, tensors.c.level_bits.is_not(None))
    )
    return {idx: bits for idx, bits in job.connection.execute(query) if bits is not None}


def _measured(job: LockedJob, seq: int) -> dict[int, list[PieceError]]:
    """The unit's tensors that every unit has measured at their present width."""
    mine = select(pieces.c.tensor).where(pieces.c.job_id == job.id, pieces.c.seq == seq)
    query = (
        select(pieces, _level.label("level"))
        .join(tensors, (tensors.c.job_id == pieces.c.job_id) & (tensors.c.idx == pieces.c.tensor))
        .where(pieces.c.job_id == job.id, pieces.c.tensor.in_(mine))
        .order_by(pieces.c.tensor, pieces.c.seq)
    )
    found: dict[int, list[PieceError]] = {}
    missing: set[int] = set()
    for row in job.connection.execute(query).mappings():
        if row["bits"] is None or row["bits"] != row["level"]:
            missing.add(row["tensor"])
        else:
            found.setdefault(row["tensor"], []).append(to_piece(row))
    return {tensor: errors for tensor, errors in found.items() if tensor not in missing}


def _piece_values(error: PieceError) -> dict[str, Any]:
    values = asdict(error)
    return {"of_tensor": values.pop("tensor")} | values

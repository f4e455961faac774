"""Escalation: which width a tensor has now, and who has measured it at that width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, func, select, update

from service.adapters.sql.life import UNTRIED, count_units
from service.adapters.sql.locked import LockedJob, Verbs
from service.adapters.sql.records import to_piece
from service.adapters.sql.tables import UnitState, parts, pieces, tensors, units
from service.domain.job import Claim, PieceError, TensorState, UnitKind

_level = func.coalesce(tensors.c.level_bits, tensors.c.bits)
_OF_PIECE = and_(
    tensors.c.job_id == pieces.c.job_id,
    tensors.c.output == pieces.c.output,
    tensors.c.idx == pieces.c.tensor,
)
_MANY = 500  # values in one IN list


class LevelVerbs(Verbs):
    """The verbs of the quality gate."""

    def unit_errors(
        self, claim: Claim, errors: Sequence[PieceError], output: int = 0
    ) -> dict[int, list[PieceError]]:
        with self._held(claim) as (job, unit):
            if errors:
                job.connection.execute(
                    update(pieces).where(
                        pieces.c.job_id == job.id,
                        pieces.c.output == output,
                        pieces.c.seq == unit["seq"],
                        pieces.c.tensor == bindparam("of_tensor"),
                    ),
                    [_piece_values(error) for error in errors],
                )
            return _measured(job, unit["seq"], output)

    def escalate(
        self,
        claim: Claim,
        tensor: int,
        from_bits: int,
        to_bits: int,
        entry: dict[str, Any],
        output: int = 0,
    ) -> bool:
        with self._held(claim) as (job, unit):
            this = (
                tensors.c.job_id == job.id, tensors.c.output == output, tensors.c.idx == tensor
            )  # fmt: skip
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
                pieces.c.job_id == job.id,
                pieces.c.output == output,
                pieces.c.tensor == tensor,
                pieces.c.seq != unit["seq"],
            )
            # Only this output's parts: what was finished of the others stays.
            forget_parts(job, output, with_rows)
            return True

    def unit_todo(self, claim: Claim) -> dict[int, dict[int, int]]:
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            return unit_todo(job, unit["seq"])


def unit_todo(job: LockedJob, seq: int) -> dict[int, dict[int, int]]:
    """The outputs of a unit that have no part, each with its escalated tensors' widths."""
    finished = select(parts.c.output).where(parts.c.job_id == job.id, parts.c.seq == seq)
    query = (
        select(pieces.c.output, tensors.c.idx, tensors.c.level_bits)
        .outerjoin(tensors, _OF_PIECE & tensors.c.level_bits.is_not(None))
        .where(pieces.c.job_id == job.id, pieces.c.seq == seq, pieces.c.output.not_in(finished))
        .order_by(pieces.c.output)
    )
    todo: dict[int, dict[int, int]] = {}
    for output, idx, bits in job.connection.execute(query):
        levels = todo.setdefault(output, {})
        if idx is not None:
            levels[idx] = bits
    return todo


def forget_parts(job: LockedJob, output: int, of_units: Select[tuple[int]] | Sequence[int]) -> int:
    """Parts of an output that have to be made again; how many there were. Their units, if nobody
    works on them, become claimable."""
    which = parts.c.job_id == job.id, parts.c.output == output, parts.c.seq.in_(of_units)
    gone = list(
        job.connection.execute(delete(parts).where(*which).returning(parts.c.seq)).scalars()
    )
    for start in range(0, len(gone), _MANY):
        job.connection.execute(
            job.update_units(UnitKind.QUANTIZE)
            .where(units.c.seq.in_(gone[start : start + _MANY]), units.c.state == UnitState.DONE)
            .values(UNTRIED | {"state": UnitState.FREE, "bytes_done": 0})
        )
    count_units(job)
    return len(gone)


def forget_all_parts(job: LockedJob) -> None:
    """They are no longer there: a retry makes them again."""
    job.connection.execute(delete(parts).where(parts.c.job_id == job.id))
    job.connection.execute(
        job.update_units(UnitKind.QUANTIZE).values(
            UNTRIED | {"state": UnitState.HELD, "bytes_done": 0}
        )
    )
    count_units(job)


def _measured(job: LockedJob, seq: int, output: int) -> dict[int, list[PieceError]]:
    """The unit's tensors that every unit has measured at their present width."""
    here = pieces.c.job_id == job.id, pieces.c.output == output
    mine = select(pieces.c.tensor).where(*here, pieces.c.seq == seq)
    query = (
        select(pieces, _level.label("level"))
        .join(tensors, _OF_PIECE)
        .where(*here, pieces.c.tensor.in_(mine))
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

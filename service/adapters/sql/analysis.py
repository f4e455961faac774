"""The phases of a budget: storing what the candidates' errors are, then what came of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import delete, insert, select, update

from service.adapters.sql.life import NO_ERROR, NO_LEASE, advance, count_tensors, note_progress
from service.adapters.sql.locked import Verbs
from service.adapters.sql.records import tensor_values
from service.adapters.sql.tables import UnitState, candidates, tensors, units
from service.domain.job import CandidateError, Claim, TensorRow, UnitKind

_BATCH = 1000


class AnalysisVerbs(Verbs):
    """The verbs of ANALYZING and ALLOCATING."""

    def analysis_done(self, claim: Claim, errors: Sequence[CandidateError]) -> None:
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if unit["state"] == UnitState.DONE:
                return
            mine = candidates.c.job_id == job.id, candidates.c.seq == unit["seq"]
            job.connection.execute(delete(candidates).where(*mine))
            keys = {"job_id": job.id, "seq": unit["seq"]}
            rows: list[dict[str, Any]] = [keys | asdict(error) for error in errors]
            for start in range(0, len(rows), _BATCH):
                job.connection.execute(insert(candidates), rows[start : start + _BATCH])
            done = {"state": UnitState.DONE, "bytes_done": unit["source_bytes"]} | NO_ERROR
            job.connection.execute(
                job.update_units(UnitKind.ANALYZE)
                .where(units.c.seq == unit["seq"], units.c.fence == claim.fence)
                .values(NO_LEASE | done)
            )
            note_progress(job, self._lease_s)
            advance(job)

    def candidate_errors(self, job_id: str, output: int = 0) -> list[CandidateError]:
        query = (
            select(candidates)
            .where(candidates.c.job_id == job_id, candidates.c.output == output)
            .order_by(candidates.c.tensor, candidates.c.candidate, candidates.c.seq)
        )
        with self._db.read() as connection:
            return [_to_error(row) for row in connection.execute(query).mappings()]

    def allocate_done(
        self,
        claim: Claim,
        allocations: Sequence[dict[str, Any] | None],
        rows: Sequence[TensorRow],
    ) -> None:
        with self._held(claim, also=[UnitState.DONE]) as (job, unit):
            if unit["state"] == UnitState.DONE:
                return
            for row in rows:
                this = (
                    tensors.c.job_id == job.id,
                    tensors.c.output == row.output,
                    tensors.c.idx == row.index,
                )
                values = {"bits": row.bits, "level_bits": None} | tensor_values(row)
                job.connection.execute(update(tensors).where(*this).values(values))
            job.set(resolved=job["resolved"] | {"allocations": list(allocations)})
            done = NO_LEASE | NO_ERROR | {"state": UnitState.DONE}
            job.connection.execute(job.update_units(UnitKind.ALLOCATE).values(done))
            count_tensors(job)
            advance(job)


def _to_error(row: Any) -> CandidateError:
    # SQLite keeps a NaN as NULL.
    values: dict[str, Any] = {f.name: row[f.name] for f in fields(CandidateError)}
    values |= {name: math.nan for name, value in values.items() if value is None}
    return CandidateError(**values)

"""ANALYZE: measure what every way to store a tensor would cost, without storing anything.

All rows of every tensor are measured, not a sample: what an allocation takes for eligible then meets
its gate when it is made, and a budget that was kept to on paper is kept to in bytes. The source is
read twice for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from service.domain.budgeting import RAW, choosable
from service.domain.job import CandidateError
from service.domain.outputs import JobPlan
from service.domain.ports import Ledger
from service.domain.treatment import TensorPlan, Treatment
from service.domain.units import Unit
from workers import precompile
from workers.calibration.measured import Measured as Seen
from workers.job import JobContext
from workers.lease import Lease
from workers.memory import budget
from workers.pipeline import TensorSums, inputs_of, prefetch
from workers.stages import clock
from workers.stages.encode import Encoding, encode_tile

# Of a tensor: the output and number of each candidate, and the tensor stored so.
Ways = list[tuple[int, int, TensorPlan]]


def run(
    context: JobContext,
    ledger: Ledger,
    lease: Lease,
    plan: JobPlan,
    threads: int,
    memory: int | None,
    turn: AbstractContextManager[object],
) -> None:
    """Read the unit once and tell the ledger the error sums of all candidates.

    turn  held meanwhile, see quantize
    """
    unit = plan.units[context.claim.seq]
    ways = _ways(plan, {piece.tensor for piece in unit.pieces})

    def checkpoint(nbytes: int) -> None:
        lease.check()
        lease.advance(nbytes)

    lease.rewind()
    with turn:
        lease.check()
        precompile.beforehand((way for each in ways.values() for _, _, way in each), memory)
        sums = _measure(context, plan, unit, ways, threads, memory, checkpoint)
    lease.confirm()
    ledger.analysis_done(context.claim, [_error(key, found) for key, found in sorted(sums.items())])


def _ways(plan: JobPlan, indices: set[int]) -> dict[int, Ways]:
    """What is to be measured, for each of these tensors."""
    found: dict[int, Ways] = {}
    for output, (spec, each) in enumerate(plan):
        for free in choosable(each) if spec.recipe.undecided else ():
            if free.tensor.index in indices:
                found.setdefault(free.tensor.index, []).extend(
                    (output, number, way) for number, way in free.ways.items() if number != RAW
                )
    return found


_Key = tuple[int, int, int]


def _measure(
    context: JobContext,
    plan: JobPlan,
    unit: Unit,
    ways: Mapping[int, Ways],
    threads: int,
    memory: int | None,
    checkpoint: Callable[[int], None],
) -> dict[_Key, TensorSums]:
    """Error sums by output, tensor and candidate, added in the order of the tiles."""
    with context.measured(plan, unit) as seen:
        return _sums(context, plan, unit, ways, threads, memory, checkpoint, seen)


def _sums(
    context: JobContext,
    plan: JobPlan,
    unit: Unit,
    ways: Mapping[int, Ways],
    threads: int,
    memory: int | None,
    checkpoint: Callable[[int], None],
    seen: Seen | None,
) -> dict[_Key, TensorSums]:
    tiles = [(ways[t.tensor][0][2], t) for t in plan.tiles(unit) if t.tensor in ways]
    sums: dict[_Key, TensorSums] = {}
    by_time = any(spec.recipe.gate.max_group_rho is not None for spec in plan.outputs)
    stages = clock.Stages()
    fetcher = prefetch(
        context.source,
        plan,
        budget(plan, unit, 1, memory, context.source.reads_at_once),
        tiles,
        stages,
    )
    try:
        for fetched in fetcher:
            index = fetched.tile.tensor
            matrix = fetched.matrix(ways[index][0][2])
            known: dict[Treatment, Encoding] = {}  # outputs may ask for the same
            for output, number, way in ways[index]:
                if way.treatment not in known:
                    inputs = inputs_of(seen, way, threads, by_time=by_time)
                    with stages.measure(clock.ENCODE, fetched.data.nbytes):
                        made = encode_tile(way, fetched.tile, matrix, None, threads, inputs)
                    known[way.treatment] = made
                sums.setdefault((output, index, number), TensorSums()).add(known[way.treatment])
            nbytes = fetched.data.nbytes
            fetcher.release(fetched)
            checkpoint(nbytes)
    finally:
        fetcher.close()
        stages.tell()
    return sums


def _error(key: _Key, found: TensorSums) -> CandidateError:
    output, tensor, number = key
    sums, seen = found.errors, found.output
    return CandidateError(
        output=output,
        tensor=tensor,
        candidate=number,
        sum_w2=sums.sum_w2,
        sum_e2=sums.sum_e2,
        sum_wq=sums.sum_wq,
        sum_q2=sums.sum_q2,
        max_abs=sums.max_abs_error,
        count=sums.count,
        out_w2=seen.sum_w2,
        out_e2=seen.sum_e2,
        group_sums=() if found.groups is None else tuple(found.groups.ravel().tolist()),
    )

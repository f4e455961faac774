"""QUANTIZE: make one part, judge its tensors, and make it again wider where they fell short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import structlog

from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError
from service.domain.expected import tensor_row
from service.domain.gates import Gate, next_bits
from service.domain.job import Claim, PartRow, PieceError, TensorRow, TensorState
from service.domain.outputs import JobPlan
from service.domain.ports import Ledger
from service.domain.profiles import Action
from service.domain.treatment import TensorPlan
from service.domain.units import Unit
from workers import counters, precompile
from workers.artifact.part import PartWriter
from workers.job import JobContext
from workers.lease import Lease
from workers.memory import budget
from workers.pipeline import Pass, TensorSums, Work, run_pass
from workers.stages import clock
from workers.steps.quality import Quality, bounds, good_enough, missed, shortfall, whole

log = structlog.get_logger(__name__)


def run(
    context: JobContext,
    ledger: Ledger,
    lease: Lease,
    plan: JobPlan,
    threads: int,
    memory: int | None,
    turn: AbstractContextManager[object],
) -> None:
    """Passes over the unit until in every output each tensor is good enough or kept raw.

    A pass reads the unit once and makes the parts of all outputs that still lack theirs. What one
    output has to make again is read again, for that one alone.

    turn  held during a pass: of the units that are in hand at once, one at a time has tiles in memory
    """
    claim = context.claim
    unit = plan.units[claim.seq]
    todo = claim.todo
    for output in todo:  # of whoever worked on this unit before
        context.output.abort_uploads(context.part_key(unit.seq, output))
    while todo:
        lease.rewind()
        with ExitStack() as ends:
            with turn:
                lease.check()  # waiting for the turn may have taken long
                work = _work(context, plan, unit, todo, threads, memory)
                writers = ends.enter_context(_writers(context, work))
                with context.measured(plan, unit) as measured:
                    made = _pass(replace(work, measured=measured), writers, lease)
            for output, done in made.items():
                rows, escalated = _judge(claim, ledger, plan, work, output, done)
                if escalated:
                    continue
                lease.confirm()
                with work.stages.measure(clock.PUBLISH, done.part.nbytes):
                    info = writers[output].publish()
                part = _part(context, unit, output, done, info)
                ledger.tensors_done(claim, rows)
                _tell(rows)
                ledger.unit_done(claim, part, todo[output])
        todo = ledger.unit_todo(claim)


@contextmanager
def _writers(context: JobContext, work: Work) -> Iterator[dict[int, PartWriter]]:
    """One upload for each output; what was not published in the end is aborted."""
    with ExitStack() as ends:
        ends.callback(work.stages.tell)
        writers = {}
        for output in work.outputs:
            key = context.part_key(work.unit.seq, output)
            writers[output] = PartWriter(context.output.create(key))
            ends.callback(writers[output].abort)
        yield writers


def _part(context: JobContext, unit: Unit, output: int, done: Pass, info: ObjectInfo) -> PartRow:
    return PartRow(
        seq=unit.seq,
        key=context.part_key(unit.seq, output),
        nbytes=done.part.nbytes,
        sha256=done.part.sha256,
        etag=info.etag,
        batches=done.part.batches,
        output=output,
    )


def _tell(rows: Sequence[TensorRow]) -> None:
    for row in rows:
        counters.tensors.labels(row.state.value).inc()
        log.info(
            "tensor_done",
            tensor=row.name,
            state=row.state.value,
            bits=row.bits,
            sqnr_db=(row.metrics or {}).get("sqnr_db"),
            stored_bytes=row.stored_bytes,
        )


def _work(
    context: JobContext,
    plan: JobPlan,
    unit: Unit,
    todo: dict[int, dict[int, int]],
    threads: int,
    memory: int | None,
) -> Work:
    outputs = {
        output: {
            p.tensor: at_level(plan.plans[output].tensors[p.tensor], levels) for p in unit.pieces
        }
        for output, levels in todo.items()
    }
    precompile.beforehand((t for tensors in outputs.values() for t in tensors.values()), memory)
    limit = budget(plan, unit, len(outputs), memory, context.source.reads_at_once)
    return Work(plan, unit, outputs, context.source, limit, threads)


def at_level(tensor: TensorPlan, levels: dict[int, int]) -> TensorPlan:
    """The tensor as planned, or escalated to the ledger's level (0: keep raw)."""
    if tensor.index not in levels:
        return tensor
    return tensor.at_level(levels[tensor.index] or None)


def _pass(work: Work, writers: dict[int, PartWriter], lease: Lease) -> dict[int, Pass]:
    def checkpoint(nbytes: int) -> None:
        lease.check()
        lease.advance(nbytes)

    return run_pass(work, writers, checkpoint)


def _judge(
    claim: Claim, ledger: Ledger, job: JobPlan, work: Work, output: int, done: Pass
) -> tuple[list[TensorRow], bool]:
    """Of one output: final rows of the tensors that are complete with this unit, and whether any must be redone.

    A tensor that lies in several units is judged by whoever measures its last rows.
    """
    plan, tensors = job.plans[output], work.outputs[output]
    errors = [piece_error(tensors[index], sums) for index, sums in done.sums.items()]
    rows: list[TensorRow] = []
    escalated = False
    for index, pieces in ledger.unit_errors(claim, errors, output).items():
        tensor = tensors[index]
        found = whole(pieces)
        stored = sum(piece.stored_bytes for piece in pieces)
        quantized = tensor.treatment.action is Action.QUANTIZE
        if quantized and not good_enough(found, plan.recipe.gate, tensor.treatment.unbias):
            bits = tensor.treatment.bits
            entry = {"bits": bits, **found.metrics(calibrated=tensor.treatment.calibrated)}
            if plan.recipe.gate.on_miss == "fail":
                raise _too_coarse(tensor.name, entry, plan.recipe.gate, job.outputs[output].id)
            wider = next_bits(bits, plan.recipe.ladder)
            ledger.escalate(claim, index, bits, wider or 0, entry, output)
            log.warning("tensor_escalated", tensor=tensor.name, to_bits=wider or "raw", **entry)
            escalated = True
        else:
            row = final_row(plan.tensors[index], tensor, found, stored, plan.recipe.gate)
            rows.append(replace(row, output=output))
    return rows, escalated


def piece_error(tensor: TensorPlan, sums: TensorSums) -> PieceError:
    """The ledger's form of what a pass measured."""
    errors = sums.errors
    return PieceError(
        tensor=tensor.index,
        bits=tensor.treatment.bits,
        sum_w2=errors.sum_w2,
        sum_e2=errors.sum_e2,
        sum_wq=errors.sum_wq,
        sum_q2=errors.sum_q2,
        max_abs=errors.max_abs_error,
        count=errors.count,
        stored_bytes=sums.stored_bytes,
        out_w2=sums.output.sum_w2,
        out_e2=sums.output.sum_e2,
        group_sums=() if sums.groups is None else tuple(sums.groups.ravel().tolist()),
    )


def _too_coarse(name: str, measured: dict[str, Any], gate: Gate, output: str) -> ArrowQuantError:
    """The end of a job whose recipe wants no tensor wider than planned."""
    where = {"tensor": name, **measured, **bounds(gate)}
    return ArrowQuantError(
        "quality_below_threshold",
        shortfall(name, measured, gate),
        "Give it more bits or smaller groups, lower the gate, or let it climb: "
        "fallback.on_miss 'climb'.",
        where | ({"output": output} if output else {}),
    )


def final_row(
    planned: TensorPlan,
    stored: TensorPlan,
    found: Quality,
    nbytes: int,
    gate: Gate,
) -> TensorRow:
    """The ledger's last word on a tensor; what was tried before is in the ledger already."""
    how = stored.treatment
    row = replace(tensor_row(stored, nbytes), reason=planned.treatment.reason)
    if how.action is Action.QUANTIZE:
        row = replace(row, state=TensorState.DONE, metrics=found.metrics(calibrated=how.calibrated))
    if (how.action, how.bits) == (planned.treatment.action, planned.treatment.bits):
        return row
    reason = missed(gate, planned.treatment.bits)
    return replace(row, state=TensorState.FALLBACK, reason=reason)

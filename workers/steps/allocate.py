"""ALLOCATE: from the measured errors of all candidates to the width of every tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from kernels import ErrorSums
from service.domain.budget import Allocated
from service.domain.budgeting import Measured, allocated, choosable
from service.domain.expected import ledger_rows
from service.domain.job import CandidateError, TensorRow
from service.domain.outputs import JobPlan, plan_outputs
from service.domain.plan import Plan
from service.domain.ports import Ledger
from service.domain.treatment import TensorPlan
from workers.job import JobContext
from workers.lease import Lease
from workers.steps.quantize import good_enough

log = structlog.get_logger(__name__)


def run(context: JobContext, ledger: Ledger, lease: Lease, plan: JobPlan) -> None:
    """Solve for each output with a budget, and hand the ledger what came of it.

    Raises budget_infeasible.
    """
    made: list[Allocated | None] = []
    for output, (spec, each) in enumerate(plan):
        if not spec.recipe.undecided:
            made.append(spec.recipe.allocation)
            continue
        errors = ledger.candidate_errors(context.claim.job_id, output)
        found = allocated(each, _measured(each, errors))
        log.info("allocated", output=spec.id, nbytes=found.nbytes, loss=found.loss)
        made.append(found)
    decided = plan_outputs(
        plan.catalog,
        tuple(
            replace(spec, recipe=spec.recipe.model_copy(update={"allocation": allocation}))
            for spec, allocation in zip(plan.outputs, made, strict=True)
        ),
    )
    lease.confirm()
    ledger.allocate_done(context.claim, [_dumped(one) for one in made], _rows(decided))


def _measured(plan: Plan, errors: Sequence[CandidateError]) -> dict[tuple[int, int], Measured]:
    """Of each tensor and candidate its error over all rows, and whether it meets the gate."""
    ways: Mapping[tuple[int, int], TensorPlan] = {
        (free.tensor.index, number): way
        for free in choosable(plan)
        for number, way in free.ways.items()
    }
    sums: dict[tuple[int, int], ErrorSums] = {}
    outputs: dict[tuple[int, int], tuple[float, float]] = {}
    for e in errors:  # by unit: added in the same order on every run
        key = e.tensor, e.candidate
        part = ErrorSums(e.sum_w2, e.sum_e2, e.sum_wq, e.sum_q2, e.max_abs, e.count)
        sums[key] = sums.get(key, ErrorSums()) + part
        whole, lost = outputs.get(key, (0.0, 0.0))
        outputs[key] = whole + e.out_w2, lost + e.out_e2
    return {
        key: Measured(
            loss=_loss(total, *outputs[key]),
            good=good_enough(total, plan.recipe.gate, ways[key].treatment.unbias),
        )
        for key, total in sums.items()
    }


def _loss(weights: ErrorSums, out_w2: float, out_e2: float) -> float:
    """rho where the layer's inputs are known, else relMSE; infinite for what is no number."""
    found = out_e2 / out_w2 if out_w2 > 0 else weights.rel_mse
    return found if math.isfinite(found) else math.inf


def _dumped(allocation: Allocated | None) -> dict[str, Any] | None:
    return None if allocation is None else allocation.model_dump(mode="json")


def _rows(plan: JobPlan) -> list[TensorRow]:
    return [
        replace(row, output=output)
        for output, (spec, each) in enumerate(plan)
        if spec.recipe.budget is not None
        for row in ledger_rows(each)
    ]

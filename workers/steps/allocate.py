"""ALLOCATE: from the measured errors of all candidates to the width of every tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

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
from workers.steps.quality import Quality, good_enough, whole

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
    pieces: dict[tuple[int, int], list[CandidateError]] = {}
    for e in errors:  # by unit: added in the same order on every run
        pieces.setdefault((e.tensor, e.candidate), []).append(e)
    measured = {}
    for key, some in pieces.items():
        found = whole(some)
        good = good_enough(found, plan.recipe.gate, ways[key].treatment.unbias)
        measured[key] = Measured(loss=_loss(found), good=good)
    return measured


def _loss(found: Quality) -> float:
    """rho where the layer's inputs are known, else relMSE; infinite for what is no number."""
    loss = found.errors.rel_mse if math.isnan(found.rho) else found.rho
    return loss if math.isfinite(loss) else math.inf


def _dumped(allocation: Allocated | None) -> dict[str, Any] | None:
    return None if allocation is None else allocation.model_dump(mode="json")


def _rows(plan: JobPlan) -> list[TensorRow]:
    return [
        replace(row, output=output)
        for output, (spec, each) in enumerate(plan)
        if spec.recipe.budget is not None
        for row in ledger_rows(each)
    ]

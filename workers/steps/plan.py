"""PLAN: read the headers, decide every tensor, cut the units."""

from __future__ import annotations

from typing import Any

from service.domain.engine import versions
from service.domain.errors import ArrowQuantError
from service.domain.forecast import job_rows, job_warnings
from service.domain.job import UnitPlan
from service.domain.outputs import JobPlan
from service.domain.ports import Ledger
from service.domain.report import MANIFEST_NAME
from workers.job import JobContext, pinned
from workers.lease import Lease


def run(context: JobContext, ledger: Ledger, lease: Lease) -> None:
    """Plan the job and hand its units to the ledger.

    A retry plans again: the ledger refuses it with source_changed if the source is another by now.
    """
    for output in range(len(context.outputs)):
        _make_room(context, output)
    plan = context.fresh_plan()
    resolved: dict[str, Any] = context.claim.resolved | {
        "source": pinned(plan),
        "engine": versions(),
    }
    lease.confirm()  # tells what was read
    ledger.plan_done(context.claim, resolved, job_rows(plan), _units(plan), job_warnings(plan))


def _units(plan: JobPlan) -> list[UnitPlan]:
    return [
        UnitPlan(unit.seq, unit.source_bytes, tuple(sorted({p.tensor for p in unit.pieces})))
        for unit in plan.units
    ]


def _make_room(context: JobContext, output: int) -> None:
    """An artifact is there from its manifest on: refuse to touch one, or take its manifest away
    before the first part of it is overwritten."""
    key = context.key(MANIFEST_NAME, output)
    try:
        context.output.stat(key)
    except ArrowQuantError as error:
        if error.code == "source_not_found":
            return
        raise
    if context.request.output.if_exists == "fail":
        raise ArrowQuantError(
            "output_exists",
            "the output prefix already holds an artifact",
            "Choose another prefix, or set if_exists to 'replace'.",
            {"object": key},
        )
    context.output.delete(key)

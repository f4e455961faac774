"""PLAN: read the headers, decide every tensor, cut the units."""

from __future__ import annotations

from typing import Any

from service.domain.engine import versions
from service.domain.errors import ArrowQuantError
from service.domain.forecast import ledger_rows, warnings
from service.domain.job import UnitPlan
from service.domain.plan import Plan
from service.domain.ports import Ledger
from service.domain.report import MANIFEST_NAME
from workers.job import JobContext, pinned


def run(context: JobContext, ledger: Ledger) -> None:
    """Plan the job and hand its units to the ledger.

    A retry plans again: the ledger refuses it with source_changed if the source is another by now.
    """
    _make_room(context)
    plan = context.fresh_plan()
    resolved: dict[str, Any] = {
        "recipe": context.claim.resolved["recipe"],
        "source": pinned(plan),
        "engine": versions(),
    }
    ledger.plan_done(context.claim, resolved, ledger_rows(plan), _units(plan), warnings(plan))


def _units(plan: Plan) -> list[UnitPlan]:
    return [
        UnitPlan(unit.seq, unit.source_bytes, tuple(sorted({p.tensor for p in unit.pieces})))
        for unit in plan.units
    ]


def _make_room(context: JobContext) -> None:
    """An artifact is there from its manifest on: refuse to touch one, or take its manifest away
    before the first part of it is overwritten."""
    key = context.key(MANIFEST_NAME)
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

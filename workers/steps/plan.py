"""PLAN: read the headers, decide every tensor, cut the units, and choose the names of the parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.domain.catalog import ObjectInfo
from service.domain.engine import versions
from service.domain.errors import ArrowQuantError
from service.domain.forecast import job_rows, job_warnings
from service.domain.job import UnitPlan
from service.domain.outputs import JobPlan, from_json, plan_outputs, to_json
from service.domain.ports import Ledger
from service.domain.replay import check_calibration, check_source
from service.domain.succession import Adoption, first_part
from workers import place
from workers.job import JobContext, pinned
from workers.lease import Lease
from workers.place import Standing
from workers.steps import resume


def run(context: JobContext, ledger: Ledger, lease: Lease) -> None:
    """Plan the job and hand its units to the ledger.

    A retry plans again: the ledger refuses it with source_changed if the source is another by now.
    """
    context = _measured_by_this_version(context)
    if context.replay is not None:
        _again(context, context.replay, ledger, lease)
        return
    standing = [place.standing(context, output) for output in range(len(context.outputs))]
    if context.request.output.if_exists == "fail":
        _refuse(standing)
    plan = context.fresh_plan()
    resolved = _resolved(context, plan)
    adoption: Adoption | None = None
    if context.request.output.if_exists == "resume":
        if any(standing):
            lease.confirm()
            rows, summary = resume.complete(context, plan, standing)
            ledger.already_done(context.claim, resolved, rows, summary)
            return
        if "source" not in context.claim.resolved:  # a retry has adopted what there was
            adoption, taken = resume.unfinished(context, ledger, plan)
            resolved |= taken
            if "allocations" in taken:
                plan = plan_outputs(plan.catalog, from_json(resolved))
    if context.replaces:
        resolved |= _names(context, plan, standing)
    lease.confirm()  # tells what was read
    rows, units, found = job_rows(plan), _units(plan), job_warnings(plan)
    analyze = plan.undecided
    ledger.plan_done(context.claim, resolved, rows, units, found, adoption, analyze=analyze)


def _again(context: JobContext, replay: dict[str, Any], ledger: Ledger, lease: Lease) -> None:
    """Plan a replay, which looks at the artifact's place only to compare."""
    plan = context.fresh_plan()
    check_source([ObjectInfo(*entry) for entry in replay["objects"]], plan.catalog.objects)
    check_calibration(replay.get("calibration"), plan.catalog)
    resolved = _resolved(context, plan)
    lease.confirm()
    found, analyze = job_warnings(plan), plan.undecided
    units = _units(plan)
    ledger.plan_done(context.claim, resolved, job_rows(plan), units, found, analyze=analyze)


def _measured_by_this_version(context: JobContext) -> JobContext:
    """A retry goes on with what a budget came to, unless another version has measured it."""
    resolved = context.claim.resolved
    if context.replay is not None or resolved.get("engine") in (None, versions()):
        return context
    kept = {name: value for name, value in resolved.items() if name != "allocations"}
    claim = replace(context.claim, resolved=kept)
    return replace(context, claim=claim, outputs=from_json(kept))


def _resolved(context: JobContext, plan: JobPlan) -> dict[str, Any]:
    """What is known now: the recipes as the source has completed them, and what was pinned."""
    known = to_json(plan.outputs) | {"source": pinned(plan), "engine": versions()}
    return context.claim.resolved | known


def _units(plan: JobPlan) -> list[UnitPlan]:
    return [
        UnitPlan(unit.seq, unit.source_bytes, tuple(sorted({p.tensor for p in unit.pieces})))
        for unit in plan.units
    ]


def _names(
    context: JobContext, plan: JobPlan, standing: list[Standing | None]
) -> dict[str, list[int]]:
    """Names of parts that nobody has, so that what stands there is whole until it is replaced."""
    earlier = context.claim.resolved.get("first_parts")
    numbers = []
    for output, found in enumerate(standing):
        if found is None:
            numbers.append(earlier[output] if earlier else 0)
            continue
        taken = place.numbers_taken(context, output, found)
        before = earlier[output] if earlier else None
        if before is not None:
            # Parts of this very job are in its way no more than nothing.
            taken = place.numbers_listed(found)
        numbers.append(first_part(taken, len(plan.units), before))
    return {"first_parts": numbers}


def _refuse(standing: list[Standing | None]) -> None:
    """An artifact is there from its manifest on: do not touch one."""
    for found in standing:
        if found is not None:
            raise ArrowQuantError(
                "output_exists",
                "the output prefix already holds an artifact",
                "Choose another prefix, or set if_exists to 'replace'.",
                {"object": found.key},
            )

"""PUBLISH: check that every part is still the one we wrote, then report and manifest, last.

Each output is an artifact of its own; the job has succeeded when the last of them is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import structlog

from service import tracing
from service.domain import report
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.forecast import warnings
from service.domain.job import JobState, PartRow, Phase, TensorRow
from service.domain.outputs import JobPlan
from service.domain.plan import Plan
from service.domain.ports import Ledger
from workers import place
from workers.activations.table import Table
from workers.job import JobContext
from workers.lease import Lease
from workers.steps.activations import activations
from workers.steps.removal import take_back

log = structlog.get_logger(__name__)


def run(context: JobContext, ledger: Ledger, lease: Lease, plan: JobPlan, keep_s: float) -> None:
    """Verify, publish, and say so in the ledger. What was replaced stays for `keep_s`."""
    claim = context.claim
    ledger.set_phase(claim, Phase.VERIFYING)
    parts = ledger.parts(claim.job_id)
    with tracing.span("verify", attributes={"parts": len(parts)}):
        _verify(context, ledger, lease, parts)
    rows = [ledger.tensors(claim.job_id, output=n) for n in range(len(plan.outputs))]
    for output, (spec, each) in enumerate(plan):
        _check_gate(each, rows[output], spec.id)
    ledger.set_phase(claim, Phase.PUBLISHING)
    tables = activations(context, plan, rows, lease)
    documents = [
        _render(context, plan, output, rows[output], parts, tables[output])
        for output in range(len(plan.outputs))
    ]
    committed: list[report.Documents] = []
    try:
        with tracing.span("publish"):
            for output, rendered in enumerate(documents):
                if not context.replaces:
                    _remove_leftovers(context, plan, output)
                committed.append(rendered)
                _commit(context, lease, rendered, output, tables[output])
        leftovers = _replaced(context, plan) if context.replaces else []
        ledger.publish_done(claim, _summary(context, documents, rows), leftovers, keep_s)
    except LeaseLost:
        _withdraw_if_cancelled(context, ledger, committed)
        raise


def _check_gate(plan: Plan, rows: Sequence[TensorRow], output: str) -> None:
    """The gate of the whole artifact: nothing is published below it."""
    gate = plan.recipe.gate
    mean = report.quality(rows)["mean_cosine"]
    if not gate.enabled or mean is None or mean >= gate.min_mean_cosine:
        return
    worst = report.worst(rows, 3)
    raise ArrowQuantError(
        "quality_below_threshold",
        f"the quantized tensors have a mean cosine of {mean}; the gate of the artifact is "
        f"{gate.min_mean_cosine:g}; worst: {', '.join(worst)}",
        "Give it more bits or smaller groups, or lower fallback.min_mean_cosine.",
        {"mean_cosine": mean, "min_mean_cosine": gate.min_mean_cosine, "tensor": worst[0]}
        | ({"output": output} if output else {}),
    )


def _verify(context: JobContext, ledger: Ledger, lease: Lease, parts: Sequence[PartRow]) -> None:
    for part in parts:
        lease.check()
        problem = _problem(context, part)
        if problem:
            log.warning("part_reopened", part=part.key, reason=problem)
            ledger.reopen_unit(context.claim, part.seq, problem, part.output)
            raise LeaseLost(problem)  # PUBLISH waits for the unit and is claimed again


def _render(
    context: JobContext,
    plan: JobPlan,
    output: int,
    rows: Sequence[TensorRow],
    parts: Sequence[PartRow],
    table: Table | None,
) -> report.Documents:
    """As a job with this output alone would have them."""
    alone = context.request.recipe.each()[plan.outputs[output].id]
    return report.render(
        plan.plans[output],
        name=context.request.name,
        requested=alone.model_dump(mode="json", exclude_unset=True),
        rows=rows,
        parts=[part for part in parts if part.output == output],
        engine=context.claim.resolved["engine"],
        warnings=warnings(plan.plans[output]),
        report_sha256=lambda data: hashlib.sha256(data).hexdigest(),
        first_part=context.first_part(output),
        activations=None if table is None else _told(table),
    )


def _told(table: Table) -> report.ActivationTable:
    digest = hashlib.sha256(table.data).hexdigest()
    return report.ActivationTable(len(table.data), digest, table.summary)


def _summary(
    context: JobContext, documents: Sequence[report.Documents], rows: Sequence[Sequence[TensorRow]]
) -> dict[str, Any]:
    each = []
    for output, rendered in enumerate(documents):
        digest = hashlib.sha256(rendered.manifest).hexdigest()
        manifest = {"key": context.key(report.MANIFEST_NAME, output), "sha256": digest}
        each.append((context.outputs[output].id, rendered.summary | {"manifest": manifest}))
    if each[0][0] == "":
        return each[0][1]
    return report.summarize(each, [row for some in rows for row in some])


def _withdraw_if_cancelled(
    context: JobContext, ledger: Ledger, committed: Sequence[report.Documents]
) -> None:
    """Cancelled in the moment of the commit, and perhaps cleaned up already: no manifest may
    stand for parts that are gone. What another job has put there since is left alone."""
    if ledger.get_job(context.claim.job_id).state not in (JobState.CANCELLING, JobState.CANCELLED):
        return
    for output, documents in enumerate(committed):
        if _is_there(context, context.key(report.MANIFEST_NAME, output), documents.manifest):
            take_back(context, output)
        key = context.key(context.report_name(output), output)
        if _is_there(context, key, documents.report):
            context.output.delete(key)
            context.output.delete(context.key(context.activations_name(output), output))


def _problem(context: JobContext, part: PartRow) -> str:
    """What is wrong with a stored part, or nothing."""
    try:
        info = context.output.stat(part.key)
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return f"{part.key} is missing from the output"
    if info.size != part.nbytes or info.etag != part.etag:
        return f"{part.key} is not the object that was written"
    return ""


def _commit(
    context: JobContext,
    lease: Lease,
    documents: report.Documents,
    output: int,
    table: Table | None,
) -> None:
    """Put the table of activations, the report, then the manifest. If one is there it must be ours, from a try that died
    right after; or it is the one to replace, and is kept in case that is taken back."""
    lease.confirm()
    if table is not None:
        context.output.put(context.key(context.activations_name(output), output), table.data)
    context.output.put(context.key(context.report_name(output), output), documents.report)
    if context.replaces:
        _keep_old(context, documents, output)
    lease.confirm()  # that took a moment, in which the job may have been cancelled
    key = context.key(report.MANIFEST_NAME, output)
    try:
        context.output.put(key, documents.manifest, if_absent=not context.replaces)
    except ArrowQuantError as error:
        if error.code != "output_exists":
            raise
        if not _is_there(context, key, documents.manifest):
            raise


def _keep_old(context: JobContext, documents: report.Documents, output: int) -> None:
    found = place.standing(context, output)
    if found is not None and found.data != documents.manifest:
        context.output.put(context.key(context.replaced_name(output), output), found.data)


def _replaced(context: JobContext, plan: JobPlan) -> list[tuple[str, str]]:
    """Key and ETag of everything of the artifacts that stood here before."""
    found: list[tuple[str, str]] = []
    for output in range(len(plan.outputs)):
        ours = {context.part_key(unit.seq, output) for unit in plan.units}
        ours |= {
            context.key(name, output)
            for name in (context.report_name(output), context.activations_name(output))
        }
        for prefix in ("part-", "report", "activations", "manifest-before-"):
            listed = context.output.list(context.key(prefix, output))
            found += [(info.key, info.etag) for info in listed if info.key not in ours]
    return found


def _is_there(context: JobContext, key: str, data: bytes) -> bool:
    try:
        info = context.output.stat(key)
    except ArrowQuantError as error:
        if error.code == "source_not_found":
            return False
        raise
    return info.size == len(data) and context.output.read(key, 0, info.size) == data


def _remove_leftovers(context: JobContext, plan: JobPlan, output: int) -> None:
    """Parts of jobs that left no artifact here."""
    ours = {context.part_key(unit.seq, output) for unit in plan.units}
    for info in list(context.output.list(context.key("part-", output))):
        if info.key not in ours and info.key.endswith(".arrow"):
            context.output.delete(info.key)

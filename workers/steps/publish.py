"""PUBLISH: check that every part is still the one we wrote, then report and manifest, last."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import structlog

from service import tracing
from service.domain import report
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.forecast import warnings
from service.domain.job import JobState, PartRow, Phase
from service.domain.plan import Plan
from service.domain.ports import Ledger
from workers.job import JobContext
from workers.lease import Lease

log = structlog.get_logger(__name__)


def run(context: JobContext, ledger: Ledger, lease: Lease, plan: Plan) -> None:
    """Verify, publish, and say so in the ledger."""
    claim = context.claim
    ledger.set_phase(claim, Phase.VERIFYING)
    parts = ledger.parts(claim.job_id)
    with tracing.span("verify", attributes={"parts": len(parts)}):
        _verify(context, ledger, lease, parts)
    ledger.set_phase(claim, Phase.PUBLISHING)
    documents = report.render(
        plan,
        name=context.request.name,
        requested=context.request.recipe.model_dump(mode="json", exclude_unset=True),
        rows=ledger.tensors(claim.job_id),
        parts=parts,
        engine=claim.resolved["engine"],
        warnings=warnings(plan),
        report_sha256=lambda data: hashlib.sha256(data).hexdigest(),
    )
    _remove_leftovers(context, plan)
    try:
        with tracing.span("publish"):
            _commit(context, lease, documents)
        ledger.publish_done(claim, _summary(context, documents))
    except LeaseLost:
        _withdraw_if_cancelled(context, ledger, documents)
        raise


def _verify(context: JobContext, ledger: Ledger, lease: Lease, parts: Sequence[PartRow]) -> None:
    for part in parts:
        lease.check()
        problem = _problem(context, part)
        if problem:
            log.warning("part_reopened", part=part.seq, reason=problem)
            ledger.reopen_unit(context.claim, part.seq, problem)
            raise LeaseLost(problem)  # PUBLISH waits for the unit and is claimed again


def _summary(context: JobContext, documents: report.Documents) -> dict[str, Any]:
    digest = hashlib.sha256(documents.manifest).hexdigest()
    manifest = {"key": context.key(report.MANIFEST_NAME), "sha256": digest}
    return documents.summary | {"manifest": manifest}


def _withdraw_if_cancelled(
    context: JobContext, ledger: Ledger, documents: report.Documents
) -> None:
    """Cancelled in the moment of the commit, and perhaps cleaned up already: no manifest may
    stand for parts that are gone. What another job has put there since is left alone."""
    if ledger.get_job(context.claim.job_id).state not in (JobState.CANCELLING, JobState.CANCELLED):
        return
    ours = ((report.MANIFEST_NAME, documents.manifest), (report.REPORT_NAME, documents.report))
    for name, data in ours:
        if _is_there(context, name, data):
            context.output.delete(context.key(name))


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


def _commit(context: JobContext, lease: Lease, documents: report.Documents) -> None:
    """Put the report, then the manifest. If one is there it must be ours, from a try that died
    right after."""
    lease.confirm()
    context.output.put(context.key(report.REPORT_NAME), documents.report)
    lease.confirm()  # the report took a moment, in which the job may have been cancelled
    try:
        key = context.key(report.MANIFEST_NAME)
        context.output.put(key, documents.manifest, if_absent=True)
    except ArrowQuantError as error:
        if error.code != "output_exists":
            raise
        if not _is_there(context, report.MANIFEST_NAME, documents.manifest):
            raise


def _is_there(context: JobContext, name: str, data: bytes) -> bool:
    key = context.key(name)
    try:
        info = context.output.stat(key)
    except ArrowQuantError as error:
        if error.code == "source_not_found":
            return False
        raise
    return info.size == len(data) and context.output.read(key, 0, info.size) == data


def _remove_leftovers(context: JobContext, plan: Plan) -> None:
    """Parts of a larger artifact that this one replaces."""
    ours = {context.key(report.part_name(unit.seq)) for unit in plan.units}
    for info in list(context.output.list(context.key("part-"))):
        if info.key not in ours and info.key.endswith(".arrow"):
            context.output.delete(info.key)

"""PUBLISH: check that every part is still the one we wrote, then report and manifest, last."""

from __future__ import annotations

import hashlib

from service.domain import report
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import PartRow, Phase
from service.domain.plan import Plan
from service.domain.ports import Ledger
from workers.job import JobContext
from workers.lease import Lease


def run(context: JobContext, ledger: Ledger, lease: Lease, plan: Plan) -> None:
    """Verify, publish, and say so in the ledger."""
    claim = context.claim
    ledger.set_phase(claim, Phase.VERIFYING)
    parts = ledger.parts(claim.job_id)
    for part in parts:
        lease.check()
        problem = _problem(context, part)
        if problem:
            ledger.reopen_unit(claim, part.seq, problem)
            raise LeaseLost(problem)  # PUBLISH waits for the unit and is claimed again
    ledger.set_phase(claim, Phase.PUBLISHING)
    documents = report.render(
        plan,
        name=context.request.name,
        requested=context.request.recipe.model_dump(mode="json", exclude_unset=True),
        rows=ledger.tensors(claim.job_id),
        parts=parts,
        engine=claim.resolved["engine"],
        warnings=[],
        report_sha256=lambda data: hashlib.sha256(data).hexdigest(),
    )
    _remove_leftovers(context, plan)
    lease.confirm()
    context.output.put(context.key(report.REPORT_NAME), documents.report)
    _commit(context, documents.manifest)
    digest = hashlib.sha256(documents.manifest).hexdigest()
    ledger.publish_done(
        claim,
        documents.summary
        | {"manifest": {"key": context.key(report.MANIFEST_NAME), "sha256": digest}},
    )


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


def _commit(context: JobContext, manifest: bytes) -> None:
    """Put the manifest. If one is there it must be ours, from a try that died right after."""
    key = context.key(report.MANIFEST_NAME)
    try:
        context.output.put(key, manifest, if_absent=True)
    except ArrowQuantError as error:
        if error.code != "output_exists":
            raise
        info = context.output.stat(key)
        if info.size != len(manifest) or context.output.read(key, 0, info.size) != manifest:
            raise


def _remove_leftovers(context: JobContext, plan: Plan) -> None:
    """Parts of a larger artifact that this one replaces."""
    ours = {context.key(report.part_name(unit.seq)) for unit in plan.units}
    for info in list(context.output.list(context.key("part-"))):
        if info.key not in ours and info.key.endswith(".arrow"):
            context.output.delete(info.key)

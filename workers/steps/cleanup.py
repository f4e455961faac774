"""CLEANUP: after a cancel or a failure, leave no unfinished upload behind.

A cancelled job's finished parts go too: without a manifest nothing can be read from them. A failed
job keeps them, so that a retry continues where it stopped.
"""

from __future__ import annotations

from service.domain.job import JobState
from service.domain.ports import Ledger
from workers.job import JobContext


def run(context: JobContext, ledger: Ledger) -> None:
    """Abort uploads below the output prefix, remove a cancelled job's parts."""
    part_prefix = context.key("part-")
    context.output.abort_uploads(part_prefix)
    if ledger.get_job(context.claim.job_id).state is JobState.CANCELLING:
        for part in ledger.parts(context.claim.job_id):
            context.output.delete(part.key)
    ledger.cleanup_done(context.claim)

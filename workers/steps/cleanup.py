"""CLEANUP: after a cancel or a failure, leave no unfinished upload behind.

A cancelled job's finished parts go too: without a manifest nothing can be read from them. A failed
job keeps them, so that a retry continues where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, PartRow
from service.domain.ports import Ledger
from service.domain.report import MANIFEST_NAME, REPORT_NAME, part_name
from workers.job import JobContext


def run(context: JobContext, ledger: Ledger) -> None:
    """Abort uploads below the output prefix, remove a cancelled job's parts."""
    part_prefix = context.key("part-")
    context.output.abort_uploads(part_prefix)
    if ledger.get_job(context.claim.job_id).state is JobState.CANCELLING:
        parts = ledger.parts(context.claim.job_id)
        _withdraw(context, parts)
        for part in parts:
            context.output.delete(part.key)
    ledger.cleanup_done(context.claim)


def _withdraw(context: JobContext, parts: Sequence[PartRow]) -> None:
    """Take away a manifest that the publisher put in the moment of the cancel.

    Only one that lists exactly this job's parts: the prefix may hold another job's artifact.
    """
    ours = [(part_name(part.seq), part.sha256) for part in parts]
    if ours and listed_parts(context) == ours:
        context.output.delete(context.key(MANIFEST_NAME))
        context.output.delete(context.key(REPORT_NAME))


def listed_parts(context: JobContext) -> list[tuple[str, str]] | None:
    """Name and digest of each part of the manifest in the output; None if there is none."""
    key = context.key(MANIFEST_NAME)
    try:
        info = context.output.stat(key)
        manifest = json.loads(context.output.read(key, 0, info.size, info.etag))
        return [(part["name"], part["sha256"]) for part in manifest["parts"]]
    except ArrowQuantError as error:
        if error.code in ("source_not_found", "source_changed"):
            return None
        raise
    except (ValueError, TypeError, KeyError):
        return None  # not one of ours

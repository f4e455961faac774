"""CLEANUP: after a cancel or a failure, leave no unfinished upload behind.

A cancelled job's finished parts go too: without a manifest nothing can be read from them. A failed
job keeps them, so that a retry continues where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, PartRow
from service.domain.ports import Ledger
from service.domain.report import MANIFEST_NAME, REPORT_NAME, part_name
from workers.job import JobContext


def run(context: JobContext, ledger: Ledger) -> None:
    """Abort uploads below the output prefix, remove a cancelled job's parts."""
    job = ledger.get_job(context.claim.job_id)
    parts = ledger.parts(job.id)
    for output in range(len(context.outputs)):
        context.output.abort_uploads(context.key("part-", output))
        if job.state is JobState.CANCELLING or job.delete_artifacts:
            mine = [part for part in parts if part.output == output]
            _remove(context, output, mine, job.progress.units_total)
    ledger.cleanup_done(context.claim)


def _remove(context: JobContext, output: int, parts: Sequence[PartRow], units: int) -> None:
    """Every part of an output this job may have written: also those that it was to make again, wider, of
    which the ledger has forgotten the first. And the manifest, if the publisher put it in the
    moment of the cancel.

    If a manifest lists other parts, somebody else's artifact is there: then only what is
    provably ours goes.
    """
    listed = _listed_parts(context, output)
    if listed not in (None, [(part_name(part.seq), part.sha256) for part in parts]):
        for part in parts:
            _delete_if_ours(context, part)
        return
    if listed is not None:
        context.output.delete(context.key(MANIFEST_NAME, output))
        context.output.delete(context.key(REPORT_NAME, output))
    ours = {context.key(part_name(seq), output) for seq in range(units)}
    for info in list(context.output.list(context.key("part-", output))):
        if info.key in ours:
            context.output.delete(info.key)


def _delete_if_ours(context: JobContext, part: PartRow) -> None:
    try:
        etag = context.output.stat(part.key).etag
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return
    if etag == part.etag:
        context.output.delete(part.key)


def _listed_parts(context: JobContext, output: int) -> list[Any] | None:
    """Name and digest of each part of the manifest in the output; None if there is none."""
    key = context.key(MANIFEST_NAME, output)
    try:
        info = context.output.stat(key)
        text = context.output.read(key, 0, info.size, info.etag)
    except ArrowQuantError as error:
        if error.code == "source_not_found":
            return None
        raise
    try:
        return [(part["name"], part["sha256"]) for part in json.loads(text)["parts"]]
    except (ValueError, TypeError, KeyError):
        return ["something that is not ours"]

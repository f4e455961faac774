"""CLEANUP: leave nothing behind that nobody can use.

After a cancel or a failure unfinished uploads go. A cancelled job's finished parts go too: without a
manifest nothing can be read from them. A failed job keeps them, so that a retry continues where it
stopped; unless it was to replace an artifact, which then stands alone again. A deleted job's artifact
goes if that was asked, and what a job has replaced goes some time after.
"""

from __future__ import annotations

from collections.abc import Callable

from service.domain.job import JobRecord, JobState
from service.domain.ports import Ledger
from workers import place
from workers.job import JobContext
from workers.lease import Lease
from workers.steps.removal import Postponed, delete_if, remove_own

LATER_S = 30.0
MayGoOn = Callable[[], None]
_ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)


def run(context: JobContext, ledger: Ledger, lease: Lease) -> None:
    """Tidy up after a job that has ended, or put it off while another one writes to its place."""
    if context.replay is not None:  # it left nothing, and what is there is not its own
        ledger.cleanup_done(context.claim)
        return
    job = ledger.get_job(context.claim.job_id)
    removing = job.state is JobState.CANCELLING or bool(job.delete_artifacts)
    removing = removing or (context.replaces and job.state in _ENDED_BADLY)

    def may_go_on() -> None:
        lease.check()
        # A job that is being cancelled holds its place itself.
        if ledger.place_busy(job.id):
            raise Postponed

    try:
        may_go_on()
    except Postponed:
        # Whoever is there now aborts what he finds half written under his own names.
        if not removing and not job.leftovers:
            ledger.cleanup_done(context.claim)
            return
        ledger.release(context.claim, LATER_S)
        return
    try:
        _tidy(context, ledger, job, removing, may_go_on)
    except Postponed:
        ledger.release(context.claim, LATER_S)
        return
    ledger.cleanup_done(context.claim, removed=removing and job.state is not JobState.SUCCEEDED)


def _tidy(
    context: JobContext, ledger: Ledger, job: JobRecord, removing: bool, may_go_on: MayGoOn
) -> None:
    parts = ledger.parts(job.id)
    for output in range(len(context.outputs)):
        context.output.abort_uploads(context.key("part-", output))
        if removing:
            mine = [part for part in parts if part.output == output]
            restore, units = not job.delete_artifacts, job.progress.units_total
            remove_own(context, ledger, output, mine, units, may_go_on, restore=restore)
        if job.leftovers:
            _remove_leftovers(context, output, job.leftovers, may_go_on)


def _remove_leftovers(
    context: JobContext, output: int, leftovers: list[tuple[str, str]], may_go_on: MayGoOn
) -> None:
    """What the artifact that stands here does not need."""
    found = place.standing(context, output)
    folder = context.key("", output)
    needed = {folder + name for name in found.names} if found else set()
    for key, etag in leftovers:
        if key.startswith(folder) and key not in needed:
            may_go_on()
            delete_if(context, key, etag)

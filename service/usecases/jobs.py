"""Reading and steering jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from service.domain.job import Event, JobRecord, JobState, TensorRow, TensorState
from service.domain.ordering import After, By
from service.domain.ports import Bell, Clock, JobQuery, Ledger
from service.usecases.paging import page_after, page_position, page_size, page_token
from service.usecases.submit import Accepted, ring
from service.usecases.which_output import outputs_of

# A position in the tensors of several outputs as one number: output * _TENSORS + index.
_TENSORS: Final = 2**28


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list."""

    states: tuple[JobState, ...] = ()
    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    batch_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What a page token is bound to; the order of states does not matter."""
        return {
            "states": sorted(self.states),
            "name": self.name,
            "labels": sorted(self.labels),
            "created_after": self.created_after,
            "created_before": self.created_before,
            "batch_id": self.batch_id,
        }


def list_jobs(
    ledger: Ledger,
    clock: Clock,
    tenant: str,
    wanted: JobFilter,
    order: tuple[By, ...],
    size: int | None,
    token: str | None,
) -> tuple[list[JobRecord], str | None]:
    """A page of jobs and the token of the next one. Jobs that arrive, start or end between two
    pages neither shift the pages nor come twice."""
    filters = {"tenant": tenant, **wanted.as_dict(), "order": [str(by) for by in order]}
    limit = page_size(size)
    after = page_after(token, filters, order) if token else None
    as_of = after.as_of if after else clock.now()
    query = JobQuery(
        tenant=tenant,
        states=wanted.states,
        name=wanted.name,
        labels=wanted.labels,
        created_after=wanted.created_after,
        created_before=wanted.created_before,
        batch_id=wanted.batch_id,
        order=order,
        after=after,
        limit=limit + 1,
    )
    found = ledger.list_jobs(query)
    if len(found) <= limit:
        return found, None
    last = After.row(order, found[limit - 1], as_of)
    return found[:limit], page_token(last.as_list(), filters)


def cancel(ledger: Ledger, bell: Bell, job_id: str, tenant: str) -> Accepted:
    """Stop a job. Workers are told, since a running one has to be cleaned up."""
    job = ledger.cancel_job(job_id, tenant)
    return Accepted(job, ring(bell) if job.state is JobState.CANCELLING else None)


def retry(ledger: Ledger, bell: Bell, job_id: str, tenant: str) -> Accepted:
    """Queue a failed or cancelled job again; finished units are kept."""
    job = ledger.retry_job(job_id, tenant)
    return Accepted(job, ring(bell))


def delete(ledger: Ledger, bell: Bell, job_id: str, tenant: str, *, artifacts: bool) -> None:
    """Forget a job that has ended. Workers are told if its artifact goes too; if they cannot be,
    they find it by themselves."""
    ledger.delete_job(job_id, tenant, artifacts=artifacts)
    if artifacts:
        ring(bell)


def list_events(
    ledger: Ledger, job_id: str, tenant: str, after: int, size: int | None
) -> list[Event]:
    """Events of a job after a number, oldest first."""
    ledger.get_job(job_id, tenant)
    return ledger.events(job_id, after, page_size(size))


def list_tensors(
    ledger: Ledger,
    job_id: str,
    tenant: str,
    state: TensorState | None,
    output: str | None,
    size: int | None,
    token: str | None,
) -> tuple[list[tuple[str, TensorRow]], str | None]:
    """A page of a job's tensors with the ids of their outputs, in source order within each, and the
    token of the next page."""
    filters = {"job": job_id, "state": state, "output": output}
    limit = page_size(size)
    job = ledger.get_job(job_id, tenant)
    first, after = divmod(page_position(token, filters, int), _TENSORS) if token else (0, -1)
    found: list[tuple[str, TensorRow]] = []
    for which in outputs_of(job, output):
        if which.number >= first and len(found) <= limit:
            start = after if which.number == first else -1
            rows = ledger.tensors(job_id, start, limit + 1 - len(found), state, which.number)
            found += [(which.id, row) for row in rows]
    if len(found) <= limit:
        return found, None
    last = found[limit - 1][1]
    return found[:limit], page_token(last.output * _TENSORS + last.index, filters)

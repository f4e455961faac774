"""Jobs: create, list, watch, cancel, retry, delete."""

from __future__ import annotations

import hashlib
from datetime import UTC
from typing import Annotated, Any, Final, Literal

import structlog
from fastapi import APIRouter, Body, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.domain.fleet import Holder
from service.domain.job import TERMINAL, JobRecord, JobState
from service.domain.ordering import parse_order
from service.domain.spec import JobRequest
from service.usecases import jobs, submit
from service.usecases.jobs import JobFilter
from service.usecases.recipes import expanded
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead, JobsWrite
from service.web.context import Shared
from service.web.follow import MAX_WAIT_S, job_after
from service.web.idempotency import Documented, IdempotentRoute
from service.web.routes.parameters import JobId, LabelFilter, OrderBy, PageSize, PageToken
from service.web.routes.plans import EXAMPLE, SOURCE_FAILURES
from service.web.schemas import JobOut, JobPage, JobView
from service.web.times import Moment

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=IdempotentRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "name": "dream-7b-int4",
    "labels": {"team": "diffusion"},
    **EXAMPLE,
    "output": {"connection": "artifacts", "prefix": "dream-7b-int4/"},
}
# When to look again at a job that has just changed.
_RETRY_AFTER: Final = {"Retry-After": "1"}
View = Annotated[
    JobView,
    Query(description="`basic` leaves out request, resolved, warnings, summary and workers."),
]
_REPEATABLE: Final = ("idempotency_key_reused", "idempotency_in_flight")


@router.post(
    "",
    operation_id="create_job",
    summary="Create a job",
    status_code=202,
    response_model=JobOut,
    responses=failures(
        *SOURCE_FAILURES, "output_exists", "output_in_use", "quota_exceeded", *_REPEATABLE
    ),
    dependencies=[Documented],
)
def create_job(
    body: Annotated[JobRequest, Body(openapi_examples={"local": {"value": _EXAMPLE}})],
    tenant: JobsWrite,
    shared: Shared,
    validate_only: Annotated[
        bool, Query(description="Make all checks and return the job, but store nothing.")
    ] = False,
) -> Response:
    """Check the request and the headers of the source, and queue the job.

    What is wrong with the request is said now. What goes wrong later is in the job's `error`. Once
    this answers 202 the job is in the database and is not lost, whatever else is down.
    """
    deps = shared.deps
    body = expanded(body, deps.recipes, tenant)
    if validate_only:
        new = submit.check(body, tenant, deps.stores, deps.webhooks)
        job = submit.preview(new, deps.clock, deps.settings.max_attempts)
        return json_answer(JobOut.of(job), 202)
    return _accepted(
        submit.submit(body, tenant, deps.stores, deps.webhooks, deps.ledger, deps.bell)
    )


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=JobPage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_jobs(
    tenant: JobsRead,
    shared: Shared,
    state: Annotated[
        list[JobState] | None, Query(description="May be repeated: jobs in any of these states.")
    ] = None,
    name: Annotated[
        str | None, Query(max_length=128, pattern=r"^[^\x00]*$", description="The exact name.")
    ] = None,
    label: Annotated[
        list[LabelFilter] | None,
        Query(
            max_length=16, description="`key:value`. May be repeated: jobs with all these labels."
        ),
    ] = None,
    created_after: Annotated[Moment | None, Query(description="RFC 3339.")] = None,
    created_before: Annotated[Moment | None, Query(description="RFC 3339.")] = None,
    batch_id: Annotated[
        str | None,
        Query(max_length=64, pattern=r"^[^\x00]*$", description="Jobs that this batch submitted."),
    ] = None,
    order_by: OrderBy = None,
    view: View = "full",
    page_size: PageSize = None,
    page_token: PageToken = None,
) -> Response:
    """Your jobs, newest first unless `order_by` says otherwise. Jobs that arrive, start or end
    while you page do not shift what you get."""
    pairs = (text.partition(":") for text in label or ())
    wanted = JobFilter(
        states=tuple(dict.fromkeys(state or ())),
        name=name,
        labels=tuple(dict.fromkeys((key, value) for key, _, value in pairs)),
        created_after=created_after and created_after.astimezone(UTC),
        created_before=created_before and created_before.astimezone(UTC),
        batch_id=batch_id,
    )
    deps, order = shared.deps, parse_order(order_by)
    found, token = jobs.list_jobs(
        deps.ledger, deps.clock, tenant, wanted, order, page_size, page_token
    )
    return json_answer(
        JobPage(jobs=[JobOut.of(job, view, None) for job in found], next_page_token=token)
    )


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Get a job",
    response_model=JobOut,
    responses={
        304: {"description": "The job is still as `If-None-Match` says."},
        **failures("not_found", "invalid_spec"),
    },
)
async def get_job(
    job_id: JobId,
    tenant: JobsRead,
    shared: Shared,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the job to change.")
    ] = 0,
    view: View = "full",
    if_none_match: Annotated[
        str | None,
        Header(
            alias="If-None-Match", description="The `ETag` you have: answer 304 while it holds."
        ),
    ] = None,
) -> Response:
    """The job now, or with `wait` as soon as it changes: from the state of `If-None-Match` if you
    send it, else from the present one. A job that has ended is answered at once."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")} - {""}

    def known(job: JobRecord) -> bool:
        return "*" in tags or _etag(JobOut.of(job, view)) in tags

    job = await job_after(shared, job_id, tenant, wait, known if tags else None)
    headers = {"ETag": _etag(JobOut.of(job, view)), "Cache-Control": "private, no-cache"}
    if known(job):
        return Response(status_code=304, headers=headers)
    workers = None if view == "basic" else await run_in_threadpool(_at_work, shared, job)
    if workers:
        # Their heartbeats are no news: the tag is that of the job without them.
        headers["ETag"] = "W/" + headers["ETag"]
    return json_answer(JobOut.of(job, view, workers), headers=headers)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    status_code=202,
    response_model=JobOut,
    responses={
        200: {"description": "The job is CANCELLED.", "model": JobOut},
        **failures("not_found", "job_terminal", "invalid_spec", *_REPEATABLE),
    },
    dependencies=[Documented],
)
def cancel_job(job_id: JobId, tenant: JobsWrite, shared: Shared) -> Response:
    """Stop the job: workers give it up within seconds and leave nothing half-written. Safe to
    repeat. A job that ended in another way is refused."""
    done = jobs.cancel(shared.deps.ledger, shared.deps.bell, job_id, tenant)
    return _accepted(done, 200 if done.job.state is JobState.CANCELLED else 202)


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    summary="Retry a job",
    status_code=202,
    response_model=JobOut,
    responses=failures(
        "not_found",
        "job_active",
        "job_terminal",
        "output_in_use",
        "quota_exceeded",
        "invalid_spec",
        *_REPEATABLE,
    ),
    dependencies=[Documented],
)
def retry_job(job_id: JobId, tenant: JobsWrite, shared: Shared) -> Response:
    """Queue a FAILED or CANCELLED job again. Parts that were finished are not made twice; if the
    source is another by now, the job fails with `source_changed`."""
    return _accepted(jobs.retry(shared.deps.ledger, shared.deps.bell, job_id, tenant))


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a job",
    status_code=204,
    response_class=Response,
    responses=failures("not_found", "job_active", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def delete_job(
    job_id: JobId,
    tenant: JobsWrite,
    shared: Shared,
    artifacts: Annotated[
        Literal["keep", "delete"],
        Query(description="Whether the artifact stays in the store, or goes with the job."),
    ] = "keep",
) -> Response:
    """Forget a job that has ended; from now on it is not found. With `artifacts=delete` workers
    remove, soon after, what this job wrote and nobody has replaced since."""
    deps = shared.deps
    jobs.delete(deps.ledger, deps.bell, job_id, tenant, artifacts=artifacts == "delete")
    return Response(status_code=204)


def _accepted(done: submit.Accepted, status: int = 202) -> Response:
    if done.unrung is not None:
        log.warning("workers were not told", job=done.job.id, why=done.unrung.detail)
    body = JobOut.of(done.job)
    headers = {"Location": body.links.self} | (_RETRY_AFTER if status == 202 else {})
    return json_answer(body, status, headers)


def _at_work(shared: Shared, job: JobRecord) -> list[Holder]:
    return [] if job.state in TERMINAL else shared.deps.fleet.holders(job.id)


def _etag(shown: JobOut) -> str:
    return f'"{hashlib.sha256(shown.model_dump_json().encode()).hexdigest()[:32]}"'

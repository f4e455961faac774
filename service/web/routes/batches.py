"""Batches: submit many jobs at once, follow them as one, fetch what became of every line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Header, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.domain.batch import BatchRecord, BatchState, Doing, NewBatch
from service.domain.errors import ArrowQuantError
from service.domain.ids import new_id
from service.domain.job import JobState
from service.usecases import batches
from service.usecases.batches import Intake, Steered
from service.usecases.submit import ring
from service.web.answers import JSON, failures, json_answer
from service.web.auth import JobsRead, JobsWrite, Tenant
from service.web.batch_schemas import BatchOut, BatchPage, LineOut
from service.web.context import Shared
from service.web.follow import MAX_WAIT_S, batch_after
from service.web.idempotency import Documented, IdempotentRoute, StreamedRoute
from service.web.jsonl import numbered_lines
from service.web.routes.parameters import LabelFilter, PageSize, PageToken
from service.web.uploads import Uploads

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=IdempotentRoute)
uploading = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=StreamedRoute)

JSONL: Final = "application/jsonl"
_RETRY_AFTER: Final = {"Retry-After": "1"}
_REPEATABLE: Final = ("idempotency_key_reused", "idempotency_in_flight")
_ID: Final = re.compile(r"batch_[0-9a-z]{1,40}")
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_WINDOW_S: Final = 30 * 86400
_uploads = Uploads()
_LINE: Final = (
    '{"custom_id": "a1", "body": {"source": {"connection": "models", "prefix": "dream-7b/"}, '
    '"output": {"connection": "artifacts", "prefix": "dream-7b-int4/"}}}\n'
)


async def _batch_id(
    _: Tenant,  # first of all: who has no key learns nothing, not even what an id looks like
    batch_id: Annotated[
        str, Path(description="The batch's `id`.", examples=["batch_01kayq3zj6c8x4t1m2n5p7r9sv"])
    ],
) -> str:
    """What cannot be an id is not found: no different from one that is nobody's."""
    if not _ID.fullmatch(batch_id):
        raise ArrowQuantError("not_found", "there is no such batch")
    return batch_id


BatchId = Annotated[str, Depends(_batch_id)]


def window_s(text: str | None) -> int | None:
    """Seconds of `90s`, `30m`, `24h` or `7d`. Raises invalid_spec."""
    if text is None:
        return None
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_WINDOW_S:
        detail = "completion_window: a number and s, m, h or d, 30d at most, for example 24h"
        raise ArrowQuantError("invalid_spec", detail)
    return seconds


def _labels(given: list[str] | None) -> dict[str, str]:
    pairs = (label.partition(":") for label in given or ())
    return {key: value for key, _, value in pairs}


@uploading.post(
    "",
    operation_id="create_batch",
    summary="Create a batch",
    status_code=202,
    response_model=BatchOut,
    responses=failures(
        *("invalid_batch", "invalid_spec", "output_in_use", "payload_too_large"),
        *("unsupported_media_type", "upload_timeout", "too_many_uploads", *_REPEATABLE),
    ),
    dependencies=[Documented],
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "JSON Lines: one job a line, each with a `custom_id` of your own and the "
            "body of `POST /v1/jobs`. `application/x-ndjson` is the same.",
            "content": {
                JSONL: {"schema": {"type": "string"}, "examples": {"one": {"value": _LINE}}}
            },
        }
    },
)
async def create_batch(
    request: Request,
    tenant: JobsWrite,
    shared: Shared,
    name: Annotated[
        str, Query(max_length=128, pattern=r"^[^\x00]*$", description="For people.")
    ] = "",
    label: Annotated[
        list[LabelFilter] | None, Query(max_length=64, description="`key:value`; repeatable.")
    ] = None,
    completion_window: Annotated[
        str | None,
        Query(
            max_length=16,
            description="Jobs that no worker has taken after so long become EXPIRED: a number and "
            "`s`, `m`, `h` or `d`, for example `24h`. Without it they wait for ever.",
        ),
    ] = None,
    validate_only: Annotated[
        bool, Query(description="Check every line and queue nothing.")
    ] = False,
) -> Response:
    """Queue all jobs, or none. The body is read as it comes and may have 100 MiB; every line is
    checked, and if any is bad the answer lists the bad ones by number and nothing is queued.

    Sources are looked at once each and as far as a few seconds allow; what is wrong with one that
    there was no time for, and outputs that hold an artifact already, fail their own job later.
    """
    deps, settings = shared.deps, shared.deps.settings
    new = NewBatch(new_id("batch"), tenant, name, _labels(label), window_s(completion_window))
    intake = Intake(
        new,
        deps.batches,
        deps.stores,
        deps.webhooks,
        deps.recipes,
        deps.clock,
        settings.max_body_bytes,
    )
    with _uploads.slot(tenant):
        await run_in_threadpool(intake.__enter__)
        try:
            lines = numbered_lines(request, settings.max_body_bytes, settings.max_batch_lines)
            async for some in lines:
                await run_in_threadpool(intake.feed, some)
            batch = await run_in_threadpool(lambda: intake.finish(validate_only=validate_only))
        finally:
            await run_in_threadpool(intake.__exit__)
    if validate_only:
        return json_answer(BatchOut.of(batch), 202)
    return _accepted(Steered(batch, await run_in_threadpool(ring, deps.bell)))


@router.get(
    "",
    operation_id="list_batches",
    summary="List batches",
    response_model=BatchPage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_batches(
    tenant: JobsRead,
    shared: Shared,
    state: Annotated[list[BatchState] | None, Query(description="May be repeated.")] = None,
    page_size: PageSize = None,
    page_token: PageToken = None,
) -> Response:
    """Your batches, newest first, each with the counts of this moment."""
    found, token = batches.list_batches(
        shared.deps.batches, tenant, state or (), page_size, page_token
    )
    return json_answer(BatchPage(batches=[BatchOut.of(b) for b in found], next_page_token=token))


@router.get(
    "/{batch_id}",
    operation_id="get_batch",
    summary="Get a batch",
    response_model=BatchOut,
    responses={
        304: {"description": "The batch is still as `If-None-Match` says."},
        **failures("not_found", "invalid_spec"),
    },
)
async def get_batch(
    batch_id: BatchId,
    tenant: JobsRead,
    shared: Shared,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the batch to change.")
    ] = 0,
    if_none_match: Annotated[
        str | None,
        Header(
            alias="If-None-Match", description="The `ETag` you have: answer 304 while it holds."
        ),
    ] = None,
) -> Response:
    """The batch now, or with `wait` as soon as a count or the state changes: from what
    `If-None-Match` says if you send it, else from now. One that has ended is answered at once."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")} - {""}

    def known(batch: BatchRecord) -> bool:
        return "*" in tags or _etag(_body(batch)) in tags

    batch = await batch_after(shared, batch_id, tenant, wait, known if tags else None)
    body = _body(batch)
    headers = {"ETag": _etag(body), "Cache-Control": "private, no-cache"}
    if known(batch):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=JSON)


@router.post(
    "/{batch_id}/cancel",
    operation_id="cancel_batch",
    summary="Cancel a batch",
    status_code=202,
    response_model=BatchOut,
    responses={
        200: {"description": "The batch is CANCELLED.", "model": BatchOut},
        **failures("not_found", "batch_terminal", "batch_active", "invalid_spec", *_REPEATABLE),
    },
    dependencies=[Documented],
)
def cancel_batch(batch_id: BatchId, tenant: JobsWrite, shared: Shared) -> Response:
    """Stop every job of the batch that has not ended. Safe to repeat."""
    deps = shared.deps
    done = batches.steer(deps.batches, deps.bell, batch_id, tenant, Doing.CANCEL)
    return _accepted(done, 200 if done.batch.state is BatchState.CANCELLED else 202)


@router.post(
    "/{batch_id}/retry",
    operation_id="retry_batch",
    summary="Retry what failed",
    status_code=202,
    response_model=BatchOut,
    responses=failures("not_found", "batch_active", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def retry_batch(batch_id: BatchId, tenant: JobsWrite, shared: Shared) -> Response:
    """Queue its FAILED, CANCELLED and EXPIRED jobs again, and only those; the others are left
    alone. A window begins anew. A job whose output another job writes to by now stays as it is."""
    deps = shared.deps
    return _accepted(batches.steer(deps.batches, deps.bell, batch_id, tenant, Doing.RETRY))


@router.delete(
    "/{batch_id}",
    operation_id="delete_batch",
    summary="Forget a batch",
    status_code=204,
    responses=failures("not_found", "batch_active", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def delete_batch(batch_id: BatchId, tenant: JobsWrite, shared: Shared) -> Response:
    """Forget a batch that has ended, with its results and errors. Its jobs stay and belong to none."""
    shared.deps.batches.delete(batch_id, tenant)
    return Response(status_code=204)


class JsonLines(StreamingResponse):
    """Lines, sent as they are read."""

    media_type = JSONL


@router.get(
    "/{batch_id}/results",
    operation_id="get_batch_results",
    summary="Get what succeeded",
    response_class=JsonLines,
    response_model=LineOut,
    response_description="JSON Lines, in the order of the batch.",
    responses=failures("not_found", "invalid_spec"),
)
def get_batch_results(batch_id: BatchId, tenant: JobsRead, shared: Shared) -> Response:
    """One line for each job that has SUCCEEDED by now: `custom_id`, and as `response` what
    `GET /v1/jobs/{id}` answers."""
    return _lines(shared, batch_id, tenant, [JobState.SUCCEEDED])


@router.get(
    "/{batch_id}/errors",
    operation_id="get_batch_errors",
    summary="Get what did not succeed",
    response_class=JsonLines,
    response_model=LineOut,
    response_description="JSON Lines, in the order of the batch.",
    responses=failures("not_found", "invalid_spec"),
)
def get_batch_errors(batch_id: BatchId, tenant: JobsRead, shared: Shared) -> Response:
    """One line for each job that has FAILED, was CANCELLED or EXPIRED by now: `custom_id`, and
    `error` with its code."""
    states = [JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED]
    return _lines(shared, batch_id, tenant, states)


def _lines(shared: Shared, batch_id: str, tenant: str, states: Iterable[JobState]) -> Response:
    store = shared.deps.batches
    store.get(batch_id, tenant)

    def text() -> Iterator[bytes]:
        for outcome in store.outcomes(batch_id, states):
            yield LineOut.of(outcome).model_dump_json().encode() + b"\n"

    return JsonLines(text(), headers={"X-Accel-Buffering": "no"})


def _accepted(done: Steered, status: int = 202) -> Response:
    if done.unrung is not None:
        log.warning("workers were not told", batch=done.batch.id, why=done.unrung.detail)
    body = BatchOut.of(done.batch)
    headers = {"Location": body.links.self} | (_RETRY_AFTER if status == 202 else {})
    return json_answer(body, status, headers)


def _body(batch: BatchRecord) -> bytes:
    return BatchOut.of(batch).model_dump_json().encode()


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'

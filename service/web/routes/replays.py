"""Replays: make an artifact again and say whether it came out the same."""

from __future__ import annotations

from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Body
from starlette.responses import Response

from service.usecases import replays
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead, JobsWrite
from service.web.context import Shared
from service.web.idempotency import Documented, IdempotentRoute
from service.web.replay_schemas import ReplayOut, ReplayPage, ReplayRequest
from service.web.routes.parameters import JobId, PageSize, PageToken

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/replays", tags=["replays"], route_class=IdempotentRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "artifact": {"connection": "artifacts", "prefix": "dream-7b-int4/"},
    "source": {"connection": "models", "prefix": "dream-7b/"},
}
_FAILURES: Final = (
    "invalid_spec",
    "payload_too_large",
    "unsupported_media_type",
    "not_found",
    "connection_not_found",
    "location_not_allowed",
    "invalid_artifact",
    "source_not_found",
    "source_access_denied",
    "source_changed",
    "unsupported_format",
    "invalid_safetensors_header",
    "invalid_index",
    "tensor_missing_in_index",
    "unsupported_dtype",
    "storage_unavailable",
    "storage_throttled",
    "storage_timeout",
    "storage_access_denied",
    "quota_exceeded",
    "idempotency_key_reused",
    "idempotency_in_flight",
)


@router.post(
    "",
    operation_id="create_replay",
    summary="Make an artifact again",
    status_code=202,
    response_model=ReplayOut,
    responses=failures(*_FAILURES),
    dependencies=[Documented],
)
def create_replay(
    body: Annotated[ReplayRequest, Body(openapi_examples={"artifact": {"value": _EXAMPLE}})],
    tenant: JobsWrite,
    shared: Shared,
) -> Response:
    """Read the artifact's manifest, run its recipe on its source again, keep nothing, and compare.
    A source that is not the same objects any more is refused at once."""
    deps = shared.deps
    if body.artifact is not None and body.source is not None:
        artifact, source = body.artifact, body.source
    else:
        artifact, source = replays.of_job(deps.ledger, tenant, body.job_id or "", body.output)
    done = replays.create(deps.stores, deps.ledger, deps.bell, tenant, artifact, source)
    if done.unrung is not None:
        log.warning("workers were not told", job=done.job.id, why=done.unrung.detail)
    headers = {"Location": f"/v1/replays/{done.job.id}", "Retry-After": "1"}
    return json_answer(ReplayOut.of(done.job), 202, headers)


@router.get(
    "",
    operation_id="list_replays",
    summary="List the replays",
    response_model=ReplayPage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_replays(
    tenant: JobsRead, shared: Shared, page_size: PageSize = None, page_token: PageToken = None
) -> Response:
    """Your replays, newest first."""
    deps = shared.deps
    found, token = replays.list_page(deps.ledger, deps.clock, tenant, page_size, page_token)
    return json_answer(
        ReplayPage(replays=[ReplayOut.of(job) for job in found], next_page_token=token)
    )


@router.get(
    "/{job_id}",
    operation_id="get_replay",
    summary="Get a replay",
    response_model=ReplayOut,
    responses=failures("not_found", "invalid_spec"),
)
def get_replay(job_id: JobId, tenant: JobsRead, shared: Shared) -> Response:
    """How far it is, and in the end `identical` or what differs, tensor by tensor."""
    return json_answer(ReplayOut.of(replays.get(shared.deps.ledger, tenant, job_id)))

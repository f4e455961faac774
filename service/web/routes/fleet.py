"""Workers and queues, for operators."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path
from starlette.responses import Response

from service.domain.errors import ArrowQuantError
from service.usecases import paging
from service.web.answers import failures, json_answer
from service.web.auth import Operator
from service.web.context import Shared
from service.web.fleet_schemas import QueueList, QueueOut, WorkerOut, WorkerPage
from service.web.idempotency import Documented, IdempotentRoute
from service.web.routes.parameters import PageSize, PageToken

router = APIRouter(prefix="/v1", tags=["operation"], route_class=IdempotentRoute)
_WORKER_ID: Final = re.compile(r"wrk_[0-9a-f]{24}")
_LIST: Final = {"list": "workers"}


# Asks for the key first: who has none learns nothing, not even what an id looks like.
async def _worker_id(
    _: Operator,
    worker_id: Annotated[
        str, Path(description="The worker's `id`.", examples=["wrk_0f1e2d3c4b5a69788796a5b4"])
    ],
) -> str:
    if not _WORKER_ID.fullmatch(worker_id):
        raise ArrowQuantError("not_found", "there is no such worker")
    return worker_id


WorkerId = Annotated[str, Depends(_worker_id)]


@router.get(
    "/workers",
    operation_id="list_workers",
    summary="List the workers",
    response_model=WorkerPage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_workers(
    _: Operator, shared: Shared, page_size: PageSize = None, page_token: PageToken = None
) -> Response:
    """Every worker process that has been heard of within the last hour, with what it works on."""
    limit = paging.page_size(page_size)
    after = paging.page_position(page_token, _LIST, str) if page_token else ""
    found = shared.deps.fleet.workers(after, limit + 1)
    token = paging.page_token(found[limit - 1].id, _LIST) if len(found) > limit else None
    shown = [WorkerOut.of(worker) for worker in found[:limit]]
    return json_answer(WorkerPage(workers=shown, next_page_token=token))


@router.post(
    "/workers/{worker_id}/drain",
    operation_id="drain_worker",
    summary="Drain a worker",
    response_model=WorkerOut,
    responses=failures(
        "not_found", "invalid_spec", "idempotency_key_reused", "idempotency_in_flight"
    ),
    dependencies=[Documented],
)
def drain_worker(worker_id: WorkerId, _: Operator, shared: Shared) -> Response:
    """Ask a worker to finish the unit in its hands and take no more. It hears of it within seconds
    and stays `DRAINED` until it is stopped. Safe to repeat."""
    return json_answer(WorkerOut.of(shared.deps.fleet.drain(worker_id)))


@router.get(
    "/queues",
    operation_id="list_queues",
    summary="List the queues",
    response_model=QueueList,
    responses=failures(),
)
def list_queues(_: Operator, shared: Shared) -> Response:
    """What waits and what is being worked on, by priority and tenant."""
    return json_answer(QueueList(queues=[QueueOut.of(one) for one in shared.deps.fleet.queues()]))

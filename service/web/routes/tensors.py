"""Tensors of a job: the ledger's rows."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from service.domain.job import TensorState
from service.usecases import jobs
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead
from service.web.context import Shared
from service.web.routes.parameters import JobId, OutputName, PageSize, PageToken
from service.web.schemas import TensorOut, TensorPage

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


@router.get(
    "/tensors",
    operation_id="list_tensors",
    summary="List the tensors of a job",
    response_model=TensorPage,
    responses=failures("not_found", "invalid_page_token", "invalid_spec"),
)
def list_tensors(
    job_id: JobId,
    tenant: JobsRead,
    shared: Shared,
    state: Annotated[TensorState | None, Query(description="Only tensors in this state.")] = None,
    output: OutputName = None,
    page_size: PageSize = None,
    page_token: PageToken = None,
) -> Response:
    """What was planned for every tensor, what became of it, and how exact it is. Empty until the
    job is planned. A job with several outputs has every tensor once in each."""
    found, token = jobs.list_tensors(
        shared.deps.ledger, job_id, tenant, state, output, page_size, page_token
    )
    tensors = [TensorOut.of(row, which) for which, row in found]
    return json_answer(TensorPage(tensors=tensors, next_page_token=token))

"""What the workers said while they worked on a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.domain.job_log import LogLine, LogQuery
from service.usecases import job_log
from service.usecases.paging import page_size as bounded
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead
from service.web.context import Shared
from service.web.log_schemas import LogLineOut, LogPageOut
from service.web.routes.parameters import JobId, PageSize

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

NDJSON: Final = "application/x-ndjson"
_MAX_SEQ: Final = 2**31 - 1
_EXAMPLE: Final = (
    '{"seq":7,"time":"2026-01-01T00:00:00Z","level":"info","event":"tensor_done",'
    '"unit":"quantize:0","tensor":"blocks.0.attn.weight","trace_id":null,"data":{"bits":4}}\n'
)


@router.get(
    "/logs",
    operation_id="list_logs",
    summary="Read the log of a job",
    response_model=LogPageOut,
    responses={
        200: {
            "description": "A page, or with `Accept: application/x-ndjson` all lines, one JSON "
            "object each.",
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **failures("not_found", "invalid_spec"),
    },
)
def list_logs(
    request: Request,
    job_id: JobId,
    tenant: JobsRead,
    shared: Shared,
    after: Annotated[
        int, Query(ge=0, le=_MAX_SEQ, description="Only lines with a higher `seq`.")
    ] = 0,
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Query(description="Only lines of this level or above."),
    ] = "debug",
    tensor: Annotated[
        str | None,
        Query(max_length=1024, pattern=r"^[^\x00]*$", description="Only lines on this tensor."),
    ] = None,
    page_size: PageSize = None,
) -> Response:
    """What the workers said while they worked on the job, oldest first, also those that were killed
    since. The newest 5000 lines are kept; where older ones are gone, a line `log_truncated` says how
    many. Secrets are taken out before a line is kept."""
    query = LogQuery(job_id, tenant, after, bounded(page_size), level, tensor)
    log = shared.deps.job_log
    if NDJSON in request.headers.get("accept", ""):
        # All of it in few questions, however long it is.
        pages = job_log.lines(log, replace(query, limit=job_log.AT_ONCE))
        first = next(pages)  # a job that is not there is said before an answer begins
        return StreamingResponse(
            _ndjson(chain([first], pages)), headers={"Cache-Control": "no-store"}, media_type=NDJSON
        )
    found = [LogLineOut.of(line) for line in job_log.page(log, query)]
    return json_answer(LogPageOut(logs=found, next_after=found[-1].seq if found else after))


def _ndjson(pages: Iterable[Sequence[LogLine]]) -> Iterator[bytes]:
    for lines in pages:
        yield b"".join(LogLineOut.of(line).model_dump_json().encode() + b"\n" for line in lines)

"""Events of a job: as a stream, or page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.domain.errors import ArrowQuantError
from service.domain.job import TERMINAL
from service.usecases import jobs
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead
from service.web.context import Shared
from service.web.crowd import Streams
from service.web.errors import problem
from service.web.follow import ping, stream
from service.web.routes.parameters import JobId, PageSize
from service.web.schemas import EventOut, EventPage

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

EVENT_STREAM: Final = "text/event-stream"
PING_S: Final = 15
CLOSING_S: Final = 5.0
_MAX_SEQ: Final = 2**31 - 1
_STREAM_EXAMPLE: Final = (
    'id: 7\nevent: progress\ndata: {"seq":7,"type":"progress",'
    '"time":"2026-01-01T00:00:00Z","data":{"percent":41.5}}\n\n'
)


@router.get(
    "/events",
    operation_id="list_events",
    summary="Follow a job",
    response_model=EventPage,
    responses={
        200: {
            "description": "A page, or with `Accept: text/event-stream` a stream.",
            "content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}},
        },
        204: {"description": "The job has ended and there are no more events: stop reconnecting."},
        **failures("not_found", "invalid_spec", "too_many_streams"),
    },
)
async def list_events(
    request: Request,
    job_id: JobId,
    tenant: JobsRead,
    shared: Shared,
    after: Annotated[
        int, Query(ge=0, le=_MAX_SEQ, description="Only events with a higher `seq`.")
    ] = 0,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=_MAX_SEQ,
            description="As `after`; sent by clients that reconnect.",
        ),
    ] = None,
    page_size: PageSize = None,
) -> Response:
    """The history of a job. As JSON it is a page: ask again with `after=next_after`. With
    `Accept: text/event-stream` it is a stream of server-sent events: first what has happened, then
    what happens, each with its `seq` as id, until the job has ended. Nothing is lost by
    reconnecting with `Last-Event-ID`."""
    if EVENT_STREAM in request.headers.get("accept", ""):
        return await _streamed(shared, job_id, tenant, max(after, last_event_id or 0))
    ledger = shared.deps.ledger
    found = await run_in_threadpool(jobs.list_events, ledger, job_id, tenant, after, page_size)
    events = [EventOut.of(event) for event in found]
    return json_answer(EventPage(events=events, next_after=events[-1].seq if events else after))


async def _streamed(shared: Shared, job_id: str, tenant: str, after: int) -> Response:
    job = await run_in_threadpool(shared.deps.ledger.get_job, job_id, tenant)
    if job.state in TERMINAL and after >= job.event_seq:
        # An EventSource reconnects after every end of a stream; only this status stops it.
        return Response(status_code=204)
    return Stream(
        shared.streams,
        tenant,
        stream(shared, job_id, after),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        ping=PING_S,
        ping_message_factory=ping,
        sep="\n",
        # The stream ends by itself when the service does; this is for one that hangs.
        shutdown_grace_period=CLOSING_S,
    )


class Stream(EventSourceResponse):
    """A stream that counts among those of its tenant while it lasts."""

    def __init__(
        self, streams: Streams, tenant: str, events: AsyncIterator[ServerSentEvent], **options: Any
    ) -> None:
        super().__init__(events, **options)
        self._streams, self._tenant = streams, tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._streams.one(self._tenant):
                await super().__call__(scope, receive, send)
        except ArrowQuantError as error:
            if error.code != "too_many_streams":
                raise
            await problem(error, scope["state"]["request_id"], scope["path"])(scope, receive, send)

"""Following one job: the long poll and the event stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from sse_starlette.event import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from service.domain.batch import ENDED, BatchRecord
from service.domain.job import TERMINAL, JobRecord
from service.web.context import Context
from service.web.schemas import EventOut

MAX_WAIT_S: Final = 30.0
RETRY_MS: Final = 3000
RETRY_SOON_MS: Final = 500
_BATCH: Final = 500


async def job_after(
    shared: Context,
    job_id: str,
    tenant: str,
    wait_s: float,
    known: Callable[[JobRecord], bool] | None = None,
) -> JobRecord:
    """The job, at once or when it has changed from what the caller knows, or after `wait_s`.

    known  whether the caller has this state of the job already; without it, that is the present one
    """
    ledger = shared.deps.ledger
    deadline = time.monotonic() + wait_s
    first = job = await run_in_threadpool(ledger.get_job, job_id, tenant)
    while job.state not in TERMINAL and (known(job) if known else job == first):
        left = deadline - time.monotonic()
        if left <= 0 or not await shared.watch.newer(job_id, job.event_seq, left):
            break
        job = await run_in_threadpool(ledger.get_job, job_id, tenant)
    return job


async def batch_after(
    shared: Context,
    batch_id: str,
    tenant: str,
    wait_s: float,
    known: Callable[[BatchRecord], bool] | None = None,
) -> BatchRecord:
    """As `job_after`, of a batch."""
    batches, watch = shared.deps.batches, shared.batch_watch
    deadline = time.monotonic() + wait_s
    first: BatchRecord | None = None
    while True:
        # Asked first: a change after this and before the batch is read is then seen as one.
        heads = await run_in_threadpool(batches.heads, [batch_id]) if wait_s else {}
        batch = await run_in_threadpool(batches.get, batch_id, tenant)
        first = first or batch
        unchanged = known(batch) if known else batch == first
        left = deadline - time.monotonic()
        if batch.state in ENDED or not unchanged or left <= 0:
            return batch
        if not await watch.newer(batch_id, heads.get(batch_id, 0), left):
            return batch


async def stream(shared: Context, job_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    """Every event past `after`, then new ones as they come, until the job has ended."""
    ledger = shared.deps.ledger
    yield ServerSentEvent(retry=RETRY_MS, comment="events of " + job_id)
    while True:
        events = await run_in_threadpool(ledger.events, job_id, after, _BATCH)
        for event in events:
            data = EventOut.of(event).model_dump_json()
            yield ServerSentEvent(data, event=event.type.value, id=str(event.seq))
            after = event.seq
        if len(events) == _BATCH:
            continue
        # A retried job has an end in the middle of its history: only the ledger knows the last.
        job = await run_in_threadpool(ledger.get_job, job_id)
        if job.event_seq > after:
            continue
        if job.state in TERMINAL:
            return
        if not await shared.watch.newer(job_id, after):
            # Whoever comes back with the last id misses nothing; soon, as others are there already.
            yield ServerSentEvent(retry=RETRY_SOON_MS, comment="the server ends, connect again")
            return


def ping() -> ServerSentEvent:
    """A comment that keeps proxies from closing a quiet stream."""
    return ServerSentEvent(comment="ping")

"""What operators see of workers and queues."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from service.domain.fleet import Queue, WorkerRecord, WorkerState
from service.domain.job import PRIORITIES, UnitKind
from service.web.schemas import Out

_WORDS = {number: word for word, number in PRIORITIES.items()}


class HeldUnitOut(Out):
    """The unit of work in a worker's hands, and until when it is its own unless it is heard of."""

    job_id: str
    tenant: str
    kind: UnitKind
    seq: int
    lease_expires: datetime | None


class WorkerOut(Out):
    """A worker process. `LOST` has not been heard of for longer than a lease; `DRAINED` takes no
    more work and holds none."""

    id: str
    host: str
    pid: int
    version: str
    state: WorkerState
    start_time: datetime
    heartbeat_time: datetime
    heartbeat_age_s: float
    rss_bytes: int
    drain_time: datetime | None
    unit: HeldUnitOut | None

    @classmethod
    def of(cls, worker: WorkerRecord) -> Self:
        """A record as the API shows it."""
        return cls.model_validate(worker)


class WorkerPage(Out):
    """Workers by id."""

    workers: list[WorkerOut]
    next_page_token: str | None


class TenantQueueOut(Out):
    """One tenant's share of a queue."""

    tenant: str
    depth: int
    delayed: int
    leased: int
    jobs: int
    oldest_age_s: float | None


class QueueOut(Out):
    """What has one priority. `depth`: units that a worker could take now; `delayed`: units given
    back for a later try; `leased`: units in workers' hands; `jobs`: jobs that no worker has taken
    yet, the oldest of which has waited `oldest_age_s`."""

    priority: str
    depth: int
    delayed: int
    leased: int
    jobs: int
    oldest_age_s: float | None
    tenants: list[TenantQueueOut]

    @classmethod
    def of(cls, queue: Queue) -> Self:
        """A queue as the API shows it."""
        counts = {name: getattr(queue, name) for name in ("depth", "delayed", "leased", "jobs")}
        return cls(
            priority=_WORDS.get(queue.priority, str(queue.priority)),
            **counts,
            oldest_age_s=queue.oldest_age_s,
            tenants=[TenantQueueOut.model_validate(one) for one in queue.tenants],
        )


class QueueList(Out):
    """Every queue, the highest priority first."""

    queues: list[QueueOut]

"""Types of operation.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

from arrowquant.http.types.shared import UnitKind

WorkerState: TypeAlias = Literal["IDLE", "BUSY", "DRAINING", "DRAINED", "LOST"]


class HeldUnit(TypedDict):
    """The unit of work in a worker's hands, and until when it is its own unless it is heard
    of.
    """

    job_id: str
    tenant: str
    kind: UnitKind
    seq: int
    lease_expires: str | None


class QueueList(TypedDict):
    """Every queue, the highest priority first."""

    queues: list[Queue]


class Queue(TypedDict):
    """What has one priority. `depth`: units that a worker could take now; `delayed`: units
    given back for a later try; `leased`: units in workers' hands; `jobs`: jobs that no
    worker has taken yet, the oldest of which has waited `oldest_age_s`.
    """

    priority: str
    depth: int
    delayed: int
    leased: int
    jobs: int
    oldest_age_s: float | None
    tenants: list[TenantQueue]


class TenantQueue(TypedDict):
    """One tenant's share of a queue."""

    tenant: str
    depth: int
    delayed: int
    leased: int
    jobs: int
    oldest_age_s: float | None


class Worker(TypedDict):
    """A worker process. `LOST` has not been heard of for longer than a lease; `DRAINED` takes
    no more work and holds none.
    """

    id: str
    host: str
    pid: int
    version: str
    state: WorkerState
    start_time: str
    heartbeat_time: str
    heartbeat_age_s: float
    rss_bytes: int
    drain_time: str | None
    unit: HeldUnit | None


class WorkerPage(TypedDict):
    """Workers by id."""

    workers: list[Worker]
    next_page_token: str | None

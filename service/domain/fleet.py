"""The worker processes and what waits for them, as an operator sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from service.domain.job import UnitKind, Worker


class WorkerState(StrEnum):
    """What a worker process is about."""

    IDLE = "IDLE"  #: has nothing in its hands
    BUSY = "BUSY"  #: works on a unit
    DRAINING = "DRAINING"  #: finishes its unit and takes no more
    DRAINED = "DRAINED"  #: takes no more, and may be stopped
    LOST = "LOST"  #: has not been heard of for longer than a lease


@dataclass(frozen=True, slots=True)
class HeldUnit:
    """A unit in the hands of a worker."""

    job_id: str
    tenant: str
    kind: UnitKind
    seq: int
    lease_expires: datetime | None


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker process that has a unit of a job in its hands, and when it was last heard of."""

    id: str
    host: str
    kind: UnitKind
    seq: int
    heartbeat_time: datetime
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process. `name` is what leases are held under, `id` its form for addresses."""

    id: str
    name: str
    host: str
    pid: int
    version: str
    state: WorkerState
    start_time: datetime
    heartbeat_time: datetime
    heartbeat_age_s: float
    rss_bytes: int
    drain_time: datetime | None
    unit: HeldUnit | None


@dataclass(frozen=True, slots=True)
class TenantQueue:
    """One tenant's share of a queue, with the same counts."""

    tenant: str
    depth: int
    delayed: int
    leased: int
    jobs: int
    oldest_age_s: float | None


@dataclass(frozen=True, slots=True)
class Queue:
    """What has one priority.

    depth         units that a worker could take now
    delayed       units given back, that wait for their next try
    leased        units in the hands of workers
    jobs          jobs that no worker has taken yet
    oldest_age_s  how long the first of those has waited
    """

    priority: int
    depth: int
    delayed: int
    leased: int
    jobs: int
    oldest_age_s: float | None
    tenants: Sequence[TenantQueue]


def id_of(name: str) -> str:
    """A worker's name has slashes and colons; its id is plain, and always the same."""
    return "wrk_" + hashlib.sha256(name.encode()).hexdigest()[:24]


class Fleet(Protocol):
    """Who is at work. Being listed is not needed for working: leases alone decide that."""

    def beat(self, worker: Worker, version: str, rss_bytes: int, *, draining: bool) -> bool:
        """Say that this process lives. Whether it is asked to drain; `draining` says that it does
        so already, of its own accord."""

    def leave(self, worker: Worker) -> None:
        """The process ends well."""

    def workers(self, after: str = "", limit: int | None = None) -> list[WorkerRecord]:
        """By id, after the given one."""

    def worker(self, worker_id: str) -> WorkerRecord:
        """Raises not_found."""

    def drain(self, worker_id: str) -> WorkerRecord:
        """Ask a worker to take no more work. Raises not_found."""

    def holders(self, job_id: str) -> list[Holder]:
        """Who works on a job now."""

    def queues(self) -> list[Queue]:
        """By priority, highest first; those that are empty too."""

    def forget_lost(self) -> int:
        """Remove workers that were lost long ago; how many there were."""

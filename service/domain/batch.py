"""Batches as values: many jobs submitted at once, all of them or none. And the port to keep them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from service.domain.job import JobRecord, JobState
from service.domain.ports import NewJob


class BatchState(StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "VALIDATING"  #: lines are coming in; nothing is queued before all are good
    IN_PROGRESS = "IN_PROGRESS"  #: its jobs are queued, running, or ended
    FINALIZING = "FINALIZING"  #: every job has ended; what they left half-written is being removed
    COMPLETED = "COMPLETED"  #: every job has ended, well or not: see the counts
    FAILED = "FAILED"  #: the upload broke off: nothing of it was queued
    EXPIRED = "EXPIRED"  #: its window closed before every job was begun
    CANCELLING = "CANCELLING"  #: its jobs are being stopped
    CANCELLED = "CANCELLED"  #: stopped on request


ENDED: Final = frozenset(
    {BatchState.COMPLETED, BatchState.FAILED, BatchState.EXPIRED, BatchState.CANCELLED}
)
ACTIVE_JOBS: Final = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
RETRYABLE_JOBS: Final = (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)
# Jobs handled in one transaction, so that nobody waits long for a lock.
CHUNK: Final = 500


class Doing(StrEnum):
    """What was asked of all jobs of a batch and is not yet done for each."""

    CANCEL = "cancel"
    RETRY = "retry"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How many jobs of a batch are where. A job that was deleted counts as what it ended as."""

    total: int
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @classmethod
    def of(cls, total: int, states: Mapping[str, int]) -> BatchCounts:
        """From the number of jobs in each state."""
        count = {state: states.get(state.value, 0) for state in JobState}
        return cls(
            total=total,
            queued=count[JobState.QUEUED],
            running=count[JobState.RUNNING] + count[JobState.CANCELLING],
            succeeded=count[JobState.SUCCEEDED],
            failed=count[JobState.FAILED],
            cancelled=count[JobState.CANCELLED],
            expired=count[JobState.EXPIRED],
        )

    @property
    def active(self) -> int:
        """Jobs that have not ended."""
        return self.queued + self.running


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What is known of a batch before its first line. `window_s` bounds how long a job may wait."""

    id: str
    tenant: str
    name: str
    labels: dict[str, str]
    window_s: int | None


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as it is kept, with its counts of this moment."""

    id: str
    tenant: str
    name: str
    labels: dict[str, str]
    state: BatchState
    attempt: int
    counts: BatchCounts
    window_s: int | None
    create_time: datetime
    update_time: datetime
    cancel_time: datetime | None
    expire_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A line to be stored: its number from 1, the caller's word for it, and its job."""

    number: int
    custom_id: str
    job: NewJob


@dataclass(frozen=True, slots=True)
class LineOutcome:
    """What became of a line. `job` is None once the job was deleted; `kept` is what is then left
    of it: {state, attempt, end_time, error, summary}."""

    number: int
    custom_id: str
    job_id: str
    state: JobState
    job: JobRecord | None
    kept: dict[str, Any] | None


class BatchStage(Protocol):
    """Lines on their way in, seen by nobody else, and gone without a trace if this process dies."""

    def add(self, lines: Sequence[BatchLine]) -> None:
        """Lay lines aside."""

    def taken(self) -> list[int]:
        """Numbers of the lines whose output another job writes to that has not ended."""

    def size(self, nbytes: int, numbers: Sequence[int]) -> None:
        """Note how many bytes of their source these lines read each."""

    def accept(self, total: int) -> BatchRecord:
        """Queue every line, in one transaction. Raises output_in_use when somebody was quicker,
        quota_exceeded when the tenant may not have so many."""


class BatchLedger(Protocol):
    """The truth about batches."""

    def stage(self, batch: NewBatch) -> AbstractContextManager[BatchStage]:
        """Begin one: it is VALIDATING until it is accepted, and gone if it was not."""

    def get(self, batch_id: str, tenant: str | None = None) -> BatchRecord:
        """Raises not_found, also for another tenant's."""

    def list(
        self, tenant: str, states: Sequence[BatchState], before: str | None, limit: int
    ) -> Sequence[BatchRecord]:
        """Newest first, up to `limit`, those with smaller ids than `before`."""

    def ask(self, batch_id: str, tenant: str, doing: Doing) -> BatchRecord:
        """Note what is to be done with all its jobs; `advance` does it. Raises batch_terminal for
        a cancel of one that has ended, batch_active for a retry while another wish is open."""

    def advance(self, batch_id: str) -> bool:
        """Do what was asked for the next CHUNK of jobs; whether there may be more."""

    def outcomes(
        self, batch_id: str, states: Iterable[JobState], page: int = CHUNK
    ) -> Iterator[LineOutcome]:
        """Lines whose jobs are in these states, by number, read page by page."""

    def heads(self, batch_ids: Sequence[str]) -> dict[str, int]:
        """A number for each that differs when its counts or its state do."""

    def delete(self, batch_id: str, tenant: str) -> None:
        """Forget one that has ended; its jobs stay. Raises batch_active."""

    def sweep(self) -> int:
        """Close windows, go on with what was asked, end what has nothing left to do."""

"""What the use cases and the workers need from the outside, and no more.

Each port has an embedded and a production implementation in `service.adapters`; one contract
suite in `tests/contracts` runs on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError
from service.domain.job import (
    CandidateError,
    Claim,
    Event,
    EventType,
    JobRecord,
    JobState,
    PartRow,
    PieceError,
    TensorRow,
    UnitPlan,
    Usage,
    Worker,
)
from service.domain.ordering import NEWEST_FIRST, After, By
from service.domain.succession import Adoption


class Upload(Protocol):
    """An object being written. Nothing is visible under its key until `complete`."""

    def write(self, data: bytes | memoryview) -> int:
        """Append; may block while earlier bytes are on their way. Returns the bytes taken."""

    def complete(self) -> ObjectInfo:
        """Make the object visible, whole.

        multipart_failed: what was sent is gone, be it that somebody aborted it.
        """

    def abort(self) -> None:
        """Forget it and leave nothing behind. Safe to call at any time, also twice."""


class ObjectStore(Protocol):
    """One connection: keys are relative to its bucket and prefix (or folder).

    Errors: source_not_found, source_access_denied, source_changed (an ETag no longer holds),
    storage_unavailable, storage_throttled, storage_timeout (all after the adapter's own retries),
    no_space.
    """

    @property
    def reads_at_once(self) -> int:
        """How many calls of `readinto` under way at once bring more than one after the other."""

    def stat(self, key: str) -> ObjectInfo: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below a prefix, by key."""

    def read(self, key: str, start: int, stop: int, etag: str | None = None) -> bytes:
        """Bytes [start, stop); with `etag`, only if the object is still that one."""

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        """Fill the whole buffer from `start`; the object must still have this ETag."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write a small object at once. `if_absent` raises output_exists if it is there."""

    def create(self, key: str) -> Upload:
        """Begin writing a large object."""

    def uploads(self, prefix: str) -> Sequence[str]:
        """Keys of unfinished uploads below a prefix."""

    def abort_uploads(self, prefix: str) -> int:
        """Abort every unfinished upload below a prefix; how many there were."""

    def delete(self, key: str) -> None:
        """Remove an object; none there is fine."""

    def presign(self, key: str, seconds: int) -> str | None:
        """A short-lived URL to read the object from, or None where the store has no such thing."""

    def stream(self, key: str, etag: str | None = None) -> Iterator[bytes]:
        """The whole object in chunks, for serving a download."""


class ObjectStores(Protocol):
    """The named connections, as each tenant sees them."""

    def names(self, tenant: str) -> list[str]: ...

    def open(self, tenant: str, connection: str) -> ObjectStore:
        """Raises connection_not_found, also for another tenant's."""

    def place(self, tenant: str, connection: str) -> str:
        """A text that is the same for all tenants for whom the name means the same place."""


class Bell(Protocol):
    """The broker, used as a doorbell only: losing a ring loses nothing but a second."""

    def ring(self) -> None:
        """Say that there is work. Never blocks for long; raises broker_unavailable."""

    def check(self) -> None:
        """Raises broker_unavailable."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """What `Ledger.create_job` stores. `source_bytes`: None where the store was too slow to tell."""

    id: str
    tenant: str
    name: str
    labels: dict[str, str]
    priority: int
    request: dict[str, Any]
    resolved: dict[str, Any]
    max_runtime_s: int | None
    batch_id: str | None = None
    # The trace that it belongs to, as W3C's traceparent.
    trace: str | None = None
    max_pending_s: int | None = None
    retain_days: int | None = None
    retain_artifacts: bool = True
    output_root: str | None = None  #: what tells one output connection from another's of its name
    source_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class JobQuery:
    """A page of jobs, newest first unless `order` says otherwise, from `after` on. A job must have
    all of `labels`."""

    tenant: str
    states: tuple[JobState, ...] = ()
    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    batch_id: str | None = None
    order: tuple[By, ...] = NEWEST_FIRST
    after: After | None = None
    limit: int = 50


class Ledger(Protocol):
    """The truth about jobs. Every state change is one compare-and-set that also writes its event.

    Times are aware UTC datetimes of the database session's caller; lease arithmetic uses one clock
    passed in at construction, so tests can move it.
    """

    # -- the front end ----------------------------------------------------------------------------

    def create_job(self, job: NewJob) -> JobRecord:
        """Insert as QUEUED with its PLAN unit and its first event. Raises output_in_use while
        another active job writes to the same output, quota_exceeded if it is too much."""

    def get_job(self, job_id: str, tenant: str | None = None) -> JobRecord:
        """Raises not_found, also for another tenant's job."""

    def list_jobs(self, query: JobQuery) -> list[JobRecord]: ...

    def cancel_job(self, job_id: str, tenant: str | None = None) -> JobRecord:
        """QUEUED goes to CANCELLED at once, RUNNING to CANCELLING (every lease ends, a CLEANUP
        unit becomes claimable). Idempotent; raises job_terminal for SUCCEEDED, FAILED, EXPIRED."""

    def retry_job(self, job_id: str, tenant: str | None = None) -> JobRecord:
        """FAILED or CANCELLED back to QUEUED, attempt + 1, finished units kept (after CANCELLED
        too). Raises job_active, job_terminal (SUCCEEDED, EXPIRED), output_in_use."""

    def delete_job(self, job_id: str, tenant: str | None, *, artifacts: bool) -> None:
        """From now on not found; with `artifacts` a CLEANUP unit removes what it wrote. Raises
        job_active while it has not ended."""

    def events(self, job_id: str, after: int, limit: int) -> list[Event]: ...

    def event_heads(self, job_ids: Sequence[str]) -> dict[str, int]:
        """Highest event number of each job: one cheap query for all open streams."""

    def tensors(
        self,
        job_id: str,
        after: int = -1,
        limit: int | None = None,
        state: str | None = None,
        output: int = 0,
    ) -> list[TensorRow]:
        """Ledger rows of an output by index, after the given index."""

    def parts(self, job_id: str) -> list[PartRow]:
        """Finished parts by output and seq."""

    # -- the workers ------------------------------------------------------------------------------

    def claim(self, worker: Worker, job_id: str | None = None) -> Claim | None:
        """Take the next unit: by priority (one higher for each hour of age), then the tenant with the fewest running units, then
        age. Takes free units and those whose lease ran out; sets job RUNNING (+ phase). A unit
        claimed more than `max_attempts` times without finishing fails its job with
        attempts_exhausted. None if there is nothing to do."""

    def has_work(self) -> bool:
        """Whether `claim` would find something now."""

    def heartbeat(
        self,
        claim: Claim,
        bytes_done: int = 0,
        rss_bytes: int = 0,
        bytes_read: int = 0,
        used: Usage | None = None,
    ) -> None:
        """Renew the lease and note progress (an event at most once a second for a job).
        `bytes_read`: from the source, under this claim so far. `used`: since the last heartbeat.
        Raises LeaseLost when the fence is stale or the job no longer runs."""

    def plan_done(
        self,
        claim: Claim,
        resolved: dict[str, Any],
        tensors: Iterable[TensorRow],
        units: Iterable[UnitPlan],
        warnings: Sequence[dict[str, Any]] = (),
        adoption: Adoption | None = None,
        *,
        analyze: bool = False,
    ) -> None:
        """Store the plan in one transaction: phase QUANTIZING, QUANTIZE units become claimable.
        `analyze`: a budget's ANALYZE units first, one for each of them, then ALLOCATE.
        Where units exist already (a retry), they must be the same or source_changed is raised;
        finished ones stay finished. With no unit left to do, PUBLISH becomes claimable. What is
        adopted is finished from the start."""

    def analysis_done(self, claim: Claim, errors: Sequence[CandidateError]) -> None:
        """An ANALYZE unit has measured its rows of every tensor at every candidate; the last of
        them makes ALLOCATE claimable: phase ALLOCATING."""

    def candidate_errors(self, job_id: str, output: int = 0) -> list[CandidateError]:
        """What the units measured for an output, by tensor, candidate and unit."""

    def allocate_done(
        self,
        claim: Claim,
        allocations: Sequence[dict[str, Any] | None],
        rows: Sequence[TensorRow],
    ) -> None:
        """Keep what the budgets came to (one entry for each output, as `resolved.allocations`) and
        the tensors as they are planned now: phase QUANTIZING, QUANTIZE units become claimable."""

    def already_done(
        self,
        claim: Claim,
        resolved: dict[str, Any],
        tensors: Iterable[TensorRow],
        summary: dict[str, Any],
    ) -> None:
        """Instead of plan_done: the artifact is there already. SUCCEEDED at once."""

    def unit_errors(
        self, claim: Claim, errors: Sequence[PieceError], output: int = 0
    ) -> dict[int, list[PieceError]]:
        """Store this unit's error sums for an output and return, for each of its tensors whose every unit has
        now been measured at the tensor's present level, the sums of all of them by unit seq."""

    def escalate(
        self,
        claim: Claim,
        tensor: int,
        from_bits: int,
        to_bits: int,
        entry: dict[str, Any],
        output: int = 0,
    ) -> bool:
        """Move a tensor of an output from one level to the next (0: keep raw), once: a
        compare-and-set on its level. The output's parts with rows of it are to be made again and
        their units become undone; this one stays claimed, and other outputs' parts stay. `entry`
        is appended to the tensor's history. False if someone else already did."""

    def unit_todo(self, claim: Claim) -> dict[int, dict[int, int]]:
        """The outputs of this unit without a part and their present levels (as in Claim.todo)."""

    def unit_done(self, claim: Claim, part: PartRow, levels: dict[int, int]) -> bool:
        """An output's part is stored; with the last of them the unit is done, and the last unit
        makes PUBLISH claimable. False (and the unit stays claimed) if a tensor's level is no
        longer the one in `levels`: the part must be made again."""

    def tensors_done(self, claim: Claim, rows: Sequence[TensorRow]) -> None:
        """Final ledger rows of tensors, with an event each."""

    def set_phase(self, claim: Claim, phase: str) -> None: ...

    def publish_done(
        self,
        claim: Claim,
        summary: dict[str, Any],
        leftovers: Sequence[tuple[str, str]] = (),
        keep_s: float = 0,
    ) -> None:
        """SUCCEEDED, with artifact and done events. Of what was replaced, keys and ETags are left
        for a CLEANUP unit after `keep_s`."""

    def reopen_unit(self, claim: Claim, seq: int, reason: str, output: int = 0) -> None:
        """VERIFYING found an output's part missing or changed: its unit becomes claimable again and PUBLISH
        waits for it."""

    def cleanup_done(self, claim: Claim, *, removed: bool = False) -> None:
        """CANCELLING to CANCELLED. `removed`: finished parts are gone, and not finished for a
        retry."""

    def place_busy(self, job_id: str) -> bool:
        """Whether another job that has not ended writes to a place of this one."""

    def owned_elsewhere(self, job_id: str, keys: Sequence[str]) -> set[str]:
        """Those keys of the job's output connection that are parts of another job too."""

    def predecessor(self, job_id: str) -> JobRecord | None:
        """The tenant's last job with the same output that was planned and did not succeed."""

    def release(self, claim: Claim, delay_s: float, error: ArrowQuantError | None = None) -> None:
        """Give a unit back for a later try, not before `delay_s` from now."""

    def fail_job(self, claim: Claim, error: ArrowQuantError) -> None:
        """FAILED; every other lease of the job ends. A CLEANUP of uploads stays claimable."""

    def release_dead(self, host: str, alive: Sequence[int]) -> int:
        """Free the leases of this host's processes that no longer exist, without waiting for
        them to run out; how many there were."""

    def sweep(self) -> int:
        """Expire jobs past max_pending_s, fail those past max_runtime_s, delete those past their
        expire_time, and forget what is older than it may be."""

    def check(self) -> None:
        """Raises database_unavailable."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What was answered to a request with an Idempotency-Key. `status` None: still in flight."""

    fingerprint: str
    status: int | None
    headers: dict[str, str]
    body: bytes


class IdempotencyStore(Protocol):
    """Answers by (tenant, path, key), kept for at least a day."""

    def begin(self, tenant: str, path: str, key: str, fingerprint: str) -> StoredResponse | None:
        """None: the key is new and is now ours. Otherwise what is stored."""

    def finish(
        self,
        tenant: str,
        path: str,
        key: str,
        status: int,
        headers: dict[str, str],
        body: bytes,
        fingerprint: str | None = None,
    ) -> None:
        """Keep the answer; with `fingerprint` what is only now known of a body that was streamed."""

    def renew(self, tenant: str, path: str, key: str) -> None:
        """The request is still running: nobody is to take it for dead."""

    def forget(self, tenant: str, path: str, key: str) -> None:
        """The request failed before it did anything: the key may be used again."""


class Clock(Protocol):
    """Now, as aware UTC."""

    def now(self) -> datetime: ...


__all__ = [
    "Bell",
    "Clock",
    "EventType",
    "IdempotencyStore",
    "JobQuery",
    "Ledger",
    "NewJob",
    "ObjectStore",
    "ObjectStores",
    "StoredResponse",
    "Upload",
]

"""A job and its parts as values: states, records, claims. No storage, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from service.domain.conditions import Condition


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "QUEUED"  #: accepted; no worker has taken it yet
    RUNNING = "RUNNING"  #: at least one unit was claimed; `phase` says what is going on
    CANCELLING = "CANCELLING"  #: cancel was asked; leases are being given up, uploads aborted
    SUCCEEDED = "SUCCEEDED"  #: the manifest is in place
    FAILED = "FAILED"  #: `error` says why; retry continues from the ledger
    CANCELLED = "CANCELLED"  #: stopped on request, nothing half-written left behind
    EXPIRED = "EXPIRED"  #: waited longer than it was allowed to


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

# The only transitions there are; the ledger refuses all others. FAILED, CANCELLED and
# EXPIRED go back to QUEUED by an explicit retry, which keeps the ledger of finished units.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {JobState.RUNNING, JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED}
    ),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLING}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.EXPIRED: frozenset({JobState.QUEUED}),
}


# What a request calls them, and what they are sorted by.
PRIORITIES: Final = {"low": 0, "normal": 1, "high": 2}


class Phase(StrEnum):
    """What a RUNNING job is doing."""

    PLANNING = "PLANNING"
    ANALYZING = "ANALYZING"  #: with a budget: the errors of all candidates are measured
    ALLOCATING = "ALLOCATING"  #: and from them every tensor gets its width
    QUANTIZING = "QUANTIZING"
    VERIFYING = "VERIFYING"
    PUBLISHING = "PUBLISHING"


class UnitKind(StrEnum):
    """The kinds of work a worker can claim. One job has one PLAN, then its QUANTIZE units, then
    one PUBLISH; with a budget there are as many ANALYZE units and one ALLOCATE before them; a
    cancelled one has a CLEANUP."""

    PLAN = "plan"
    ANALYZE = "analyze"
    ALLOCATE = "allocate"
    QUANTIZE = "quantize"
    PUBLISH = "publish"
    CLEANUP = "cleanup"


class TensorState(StrEnum):
    """The ledger's word on one tensor."""

    PENDING = "PENDING"
    DONE = "DONE"  #: quantized as planned
    KEPT = "KEPT"  #: stored raw, `reason` says why
    FALLBACK = "FALLBACK"  #: quantized wider than asked, or kept, because the gate was missed
    TIED = "TIED"  #: shares the bytes of `tied_to`


class EventType(StrEnum):
    """The closed set of events of a job."""

    STATE = "state"
    PROGRESS = "progress"
    TENSOR = "tensor"
    WARNING = "warning"
    ARTIFACT = "artifact"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history. `seq` counts from 1 within the job, without gaps."""

    job_id: str
    seq: int
    type: EventType
    time: datetime
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """Byte-weighted progress. `bytes_done` never falls while a job lives. `bytes_read` is what
    came from the source, headers and second passes included. Tensors count in each output.
    `bytes_per_s` is the source's rate, `bytes_written_per_s` the target's."""

    bytes_total: int = 0
    bytes_done: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    tensors_total: int = 0
    tensors_done: int = 0
    tensors_kept: int = 0
    tensors_fallback: int = 0
    units_total: int = 0
    units_done: int = 0
    bytes_per_s: float | None = None
    bytes_written_per_s: float | None = None
    eta_s: float | None = None

    @property
    def percent(self) -> float:
        """0 to 99.9 while the job lives; only a published artifact is 100, which the job says."""
        if not self.bytes_total:
            return 0.0
        return min(99.9, round(100 * self.bytes_done / self.bytes_total, 1))


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used up: processor and wall seconds of the units, bytes from and to the object
    stores, and the most memory that a process held."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    peak_rss_bytes: int = 0

    def __sub__(self, before: Usage) -> Usage:
        """What came since."""
        return Usage(
            self.cpu_s - before.cpu_s,
            self.wall_s - before.wall_s,
            self.bytes_in - before.bytes_in,
            self.bytes_out - before.bytes_out,
        )


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the ledger holds it. `request` is the body as accepted, `resolved` the recipe with
    every default filled in plus, after planning, the pinned source objects."""

    id: str
    tenant: str
    name: str
    labels: dict[str, str]
    state: JobState
    phase: Phase | None
    attempt: int
    priority: int
    request: dict[str, Any]
    resolved: dict[str, Any]
    progress: Progress
    error: dict[str, Any] | None
    warnings: list[dict[str, Any]]
    summary: dict[str, Any] | None
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    update_time: datetime
    event_seq: int
    batch_id: str | None = None
    queue_time: datetime | None = None
    expire_time: datetime | None = None
    max_attempts: int = 0
    usage: Usage = Usage()
    delete_time: datetime | None = None
    delete_artifacts: bool | None = None
    leftovers: list[tuple[str, str]] | None = None
    trace: str | None = None
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Worker:
    """Who claims: `name` is unique to the process (host:pid:start)."""

    name: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A unit of work held under a lease.

    fence     grows at every claim of the unit; every write names it and fails when it is stale
    todo      output -> tensor index -> escalated bits (0: keep raw): the outputs of this unit that
              have no part yet, and the levels of its tensors there
    attempt   how many times this unit was claimed before without finishing
    trace     the trace of the request that made the job, as W3C's traceparent
    """

    job_id: str
    tenant: str
    kind: UnitKind
    seq: int
    fence: int
    attempt: int
    request: dict[str, Any]
    resolved: dict[str, Any]
    trace: str | None = None
    todo: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor as planned or finished, as the ledger and the API show it.

    metrics  relmse, sqnr_db, cosine, max_abs_error of the stored form (None where not measured), and
             rho, the relative error of the layer's output, where it was calibrated; where that tells
             times apart, also worst_group, the time bin with the largest rho, and worst_group_rho
    history  for a FALLBACK, what was tried: [{bits, sqnr_db, cosine}], narrowest first
    output   which of the job's outputs the row is about, from 0
    """

    index: int
    name: str
    state: TensorState
    dtype: str
    shape: list[int]
    role: str
    codec: str
    bits: int
    group_size: int
    reason: str
    source_bytes: int
    stored_bytes: int
    metrics: dict[str, float | None] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    tied_to: str | None = None
    output: int = 0


@dataclass(frozen=True, slots=True)
class PartRow:
    """A finished part file of an output: `etag` is the store's word at completion, `sha256` ours."""

    seq: int
    key: str
    nbytes: int
    sha256: str
    etag: str
    batches: int
    output: int = 0


@dataclass(frozen=True, slots=True)
class PieceError:
    """Error sums of the rows of one tensor that one unit stored (see kernels.fidelity).

    out_w2, out_e2  squares of the layer's output and of its error on the calibration's inputs; 0 without
    group_sums      of the same error and output in each time bin of the calibration: error, output, error, ...;
                    () where it has but one, at most twice 64
    """

    tensor: int
    bits: int
    sum_w2: float
    sum_e2: float
    sum_wq: float
    sum_q2: float
    max_abs: float
    count: int
    stored_bytes: int
    out_w2: float = 0.0
    out_e2: float = 0.0
    group_sums: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CandidateError:
    """Error sums of one way to store the rows of a tensor that one unit holds (see
    kernels.fidelity), of the weights and, where calibrated, of the layer's output; `group_sums` only
    where the gate bounds the worst time group. `candidate` is its number in the output's budget."""

    output: int
    tensor: int
    candidate: int
    sum_w2: float
    sum_e2: float
    sum_wq: float
    sum_q2: float
    max_abs: float
    count: int
    out_w2: float = 0.0
    out_e2: float = 0.0
    group_sums: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """A QUANTIZE unit as PLAN hands it to the ledger, the same for every output. `tensors` are
    those with rows in it."""

    seq: int
    source_bytes: int
    tensors: tuple[int, ...]

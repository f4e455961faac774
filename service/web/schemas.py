"""What the API answers with. No field has a default, so that clients see what is always there.

What the API takes is defined in `service.domain.spec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service import tracing
from service.domain.conditions import ConditionStatus, ConditionType
from service.domain.fleet import Holder
from service.domain.job import (
    PRIORITIES,
    Event,
    EventType,
    JobRecord,
    JobState,
    Phase,
    TensorRow,
    TensorState,
    UnitKind,
)
from service.domain.limits import Limits, Retention
from service.domain.notify import NotifyList
from service.domain.places import Output
from service.domain.spec import Label, LabelKey, PlanRequest

JobView = Literal["basic", "full"]
_WORDS = {number: word for word, number in PRIORITIES.items()}


class Out(BaseModel):
    """Base of everything that is answered."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class PlanBody(PlanRequest):
    """What a plan needs: the source and the recipe.

    The other fields of a job are accepted too and change nothing, so that one and the same body
    can be planned first and submitted then.
    """

    name: Annotated[str, StringConstraints(max_length=128)] = ""
    labels: dict[LabelKey, Label] = Field(default={}, max_length=64)
    output: Output | None = None
    limits: Limits = Limits()
    priority: Literal["low", "normal", "high"] = "normal"
    retention: Retention | None = None
    notify: NotifyList = ()


class ProgressOut(Out):
    """Progress by bytes of the source. `percent` is 100 only once the artifact is published.

    `bytes_read` is what was really read of the source: headers, and what had to be read again for
    tensors that missed their gate or after a crash, included. Tensors count once in each output.
    `bytes_per_s` is the source's rate, `bytes_written_per_s` that of the target."""

    percent: Annotated[float, Field(ge=0, le=100)]
    bytes_total: int
    bytes_done: int
    bytes_read: int
    bytes_written: int
    tensors_total: int
    tensors_done: int
    tensors_kept: int
    tensors_fallback: int
    units_total: int
    units_done: int
    bytes_per_s: float | None
    bytes_written_per_s: float | None
    eta_s: float | None


class JobErrorOut(Out):
    """Why a job failed: a stable code, whose fault it is, and what to do."""

    code: str
    message: str
    hint: str
    fault: str
    retryable: bool
    phase: Phase | None
    tensor: str | None
    object: str | None
    attempt: int | None
    trace_id: str | None
    where: dict[str, Any]

    @classmethod
    def of(cls, error: dict[str, Any]) -> Self:
        """An error as the ledger holds it; what does not apply is null."""
        where = error.get("where", {})
        named = {name: where.get(name) for name in ("phase", "tensor", "object")}
        kept = {name: error.get(name) for name in ("attempt", "trace_id")}
        return cls.model_validate(named | kept | error | {"where": where})


class UsageOut(Out):
    """Processor and wall seconds over all units and tries, bytes read from and written to the
    object stores, and the most memory that a worker process held meanwhile."""

    cpu_s: float
    wall_s: float
    bytes_in: int
    bytes_out: int
    peak_rss_bytes: int


class HolderOut(Out):
    """A worker process that works on the job: the unit in its hands, its memory, and when it was
    last heard of."""

    id: str
    host: str
    kind: UnitKind
    seq: int
    heartbeat_time: datetime
    rss_bytes: int


class LinksOut(Out):
    """Paths of what belongs to the job."""

    self: str
    events: str
    logs: str
    tensors: str
    report: str
    artifacts: str


class ConditionOut(Out):
    """What is the matter with a job beside its state; what is not listed is not so.

    `WORKER_RESPONDING`, of a job that runs: TRUE while a worker holds a lease (`LEASE_HELD`), FALSE
    after it ran out (`LEASE_EXPIRED`), UNKNOWN while nobody has taken it up (`WAITING_FOR_WORKER`).
    `THROTTLED`: a store fails (`STORAGE_UNAVAILABLE` and the like) or the tenant runs as many jobs
    as it may (`QUOTA`). `DEGRADED_QUALITY`: tensors fell back to more bits (`FALLBACK`)."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    since: datetime


class JobOut(Out):
    """A job. `request` is the body as accepted, `resolved` the recipe with every default filled in
    and, once planned, the pinned source objects. `summary` is there once it SUCCEEDED. `workers`
    are those at work on it now, where a single job was asked for. With `view=basic` `request`,
    `resolved`, `warnings`, `summary` and `workers` are null."""

    id: str
    name: str
    labels: dict[str, str]
    batch_id: str | None
    state: JobState
    phase: Phase | None
    attempt: int
    max_attempts: int
    priority: str
    request: dict[str, Any] | None
    resolved: dict[str, Any] | None
    progress: ProgressOut
    error: JobErrorOut | None
    warnings: list[dict[str, Any]] | None
    summary: dict[str, Any] | None
    workers: list[HolderOut] | None
    usage: UsageOut
    create_time: datetime
    queue_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    update_time: datetime
    expire_time: datetime | None
    trace_id: str | None
    conditions: list[ConditionOut]
    links: LinksOut

    @classmethod
    def of(
        cls, job: JobRecord, view: JobView = "full", workers: Sequence[Holder] | None = ()
    ) -> Self:
        """A ledger record as the API shows it."""
        full = view == "full"
        progress = {name: getattr(job.progress, name) for name in job.progress.__slots__}
        percent = 100.0 if job.state is JobState.SUCCEEDED else job.progress.percent
        base = f"/v1/jobs/{job.id}"
        return cls(
            id=job.id,
            name=job.name,
            labels=job.labels,
            batch_id=job.batch_id,
            state=job.state,
            phase=job.phase,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            priority=_WORDS.get(job.priority, str(job.priority)),
            request=job.request if full else None,
            resolved=job.resolved if full else None,
            progress=ProgressOut(percent=percent, **progress),
            error=None if job.error is None else JobErrorOut.of(job.error),
            warnings=job.warnings if full else None,
            summary=job.summary if full else None,
            workers=[HolderOut.model_validate(w) for w in workers]
            if full and workers is not None
            else None,
            usage=UsageOut.model_validate(job.usage),
            create_time=job.create_time,
            queue_time=job.queue_time,
            start_time=job.start_time,
            end_time=job.end_time,
            update_time=job.update_time,
            expire_time=job.expire_time,
            trace_id=tracing.id_of(job.trace),
            conditions=[ConditionOut.model_validate(one) for one in job.conditions],
            links=LinksOut(
                self=base,
                events=f"{base}/events",
                logs=f"{base}/logs",
                tensors=f"{base}/tensors",
                report=f"{base}/report",
                artifacts=f"{base}/artifacts",
            ),
        )


class JobPage(Out):
    """Jobs, newest first. With a `next_page_token` there are more."""

    jobs: list[JobOut]
    next_page_token: str | None


class EventOut(Out):
    """One line of a job's history. `seq` counts from 1 without gaps."""

    seq: int
    type: EventType
    time: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        """A ledger event as the API shows it."""
        return cls(seq=event.seq, type=event.type, time=event.time, data=event.data)


class EventPage(Out):
    """Events, oldest first. Ask again with `after=next_after`."""

    events: list[EventOut]
    next_after: int


class TensorOut(Out):
    """The ledger's row of one tensor. `bits` 0 is stored raw; `reason` says why it is stored so.
    `output` is empty where the job has but one."""

    output: str
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
    metrics: dict[str, float | None] | None
    history: list[dict[str, Any]]
    tied_to: str | None

    @classmethod
    def of(cls, row: TensorRow, output: str) -> Self:
        """A ledger row as the API shows it."""
        return cls(**asdict(row) | {"output": output})


class TensorPage(Out):
    """Tensors in the order of the source, output by output."""

    tensors: list[TensorOut]
    next_page_token: str | None


class ArtifactOut(Out):
    """One file of an artifact. `sha256` is in hex; `download_url` is a path of this API. `output`
    is empty where the job has but one."""

    output: str
    name: str
    bytes: int
    sha256: str
    download_url: str


class ArtifactList(Out):
    """The manifest first, then the report, then the parts in order; output by output."""

    artifacts: list[ArtifactOut]

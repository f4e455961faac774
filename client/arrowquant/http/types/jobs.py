"""Types of jobs.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from arrowquant.http.types.shared import (
    JobError,
    JobState,
    Limits,
    Notify,
    Output,
    Phase,
    Recipe,
    Retention,
    Source,
    UnitKind,
)

ConditionStatus: TypeAlias = Literal["TRUE", "FALSE", "UNKNOWN"]


ConditionType: TypeAlias = Literal["WORKER_RESPONDING", "THROTTLED", "DEGRADED_QUALITY"]


EventType: TypeAlias = Literal["state", "progress", "tensor", "warning", "artifact", "done"]


TensorState: TypeAlias = Literal["PENDING", "DONE", "KEPT", "FALLBACK", "TIED"]


class Condition(TypedDict):
    """What is the matter with a job beside its state; what is not listed is not so.

    `WORKER_RESPONDING`, of a job that runs: TRUE while a worker holds a lease
    (`LEASE_HELD`), FALSE after it ran out (`LEASE_EXPIRED`), UNKNOWN while nobody has taken
    it up (`WAITING_FOR_WORKER`). `THROTTLED`: a store fails (`STORAGE_UNAVAILABLE` and the
    like) or the tenant runs as many jobs as it may (`QUOTA`). `DEGRADED_QUALITY`: tensors
    fell back to more bits (`FALLBACK`).
    """

    type: ConditionType
    status: ConditionStatus
    reason: str
    since: str


class Event(TypedDict):
    """One line of a job's history. `seq` counts from 1 without gaps."""

    seq: int
    type: EventType
    time: str
    data: dict[str, Any]


class EventPage(TypedDict):
    """Events, oldest first. Ask again with `after=next_after`."""

    events: list[Event]
    next_after: int


class Holder(TypedDict):
    """A worker process that works on the job: the unit in its hands, its memory, and when it
    was last heard of.
    """

    id: str
    host: str
    kind: UnitKind
    seq: int
    heartbeat_time: str
    rss_bytes: int


class Job(TypedDict):
    """A job. `request` is the body as accepted, `resolved` the recipe with every default
    filled in and, once planned, the pinned source objects. `summary` is there once it
    SUCCEEDED. `workers` are those at work on it now, where a single job was asked for. With
    `view=basic` `request`, `resolved`, `warnings`, `summary` and `workers` are null.
    """

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
    progress: Progress
    error: JobError | None
    warnings: list[dict[str, Any]] | None
    summary: dict[str, Any] | None
    workers: list[Holder] | None
    usage: Usage
    create_time: str
    queue_time: str | None
    start_time: str | None
    end_time: str | None
    update_time: str
    expire_time: str | None
    trace_id: str | None
    conditions: list[Condition]
    links: Links


class JobPage(TypedDict):
    """Jobs, newest first. With a `next_page_token` there are more."""

    jobs: list[Job]
    next_page_token: str | None


class JobRequest(TypedDict):
    """The body of `POST /v1/jobs`."""

    source: Source
    recipe: NotRequired[Recipe]
    name: NotRequired[str]
    labels: NotRequired[dict[str, str]]
    output: Output
    limits: NotRequired[Limits]
    priority: NotRequired[Literal["low", "normal", "high"]]
    retention: NotRequired[Retention | None]
    notify: NotRequired[list[Notify] | Notify]


class Links(TypedDict):
    """Paths of what belongs to the job."""

    self: str
    events: str
    logs: str
    tensors: str
    report: str
    artifacts: str


class LogLine(TypedDict):
    """One line. `seq` counts within the job; `data` has what belongs to the event."""

    seq: int
    time: str
    level: str
    event: str
    unit: str | None
    tensor: str | None
    trace_id: str | None
    data: dict[str, Any]


class LogPage(TypedDict):
    """Lines in order. Ask again with `after=next_after` for what follows."""

    logs: list[LogLine]
    next_after: int


class Progress(TypedDict):
    """Progress by bytes of the source. `percent` is 100 only once the artifact is published.

    `bytes_read` is what was really read of the source: headers, and what had to be read
    again for tensors that missed their gate or after a crash, included. Tensors count once
    in each output. `bytes_per_s` is the source's rate, `bytes_written_per_s` that of the
    target.
    """

    percent: float
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


class Tensor(TypedDict):
    """The ledger's row of one tensor. `bits` 0 is stored raw; `reason` says why it is stored
    so. `output` is empty where the job has but one.
    """

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


class TensorPage(TypedDict):
    """Tensors in the order of the source, output by output."""

    tensors: list[Tensor]
    next_page_token: str | None


class Usage(TypedDict):
    """Processor and wall seconds over all units and tries, bytes read from and written to the
    object stores, and the most memory that a worker process held meanwhile.
    """

    cpu_s: float
    wall_s: float
    bytes_in: int
    bytes_out: int
    peak_rss_bytes: int

"""Types of batches.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

BatchState: TypeAlias = Literal[
    "VALIDATING",
    "IN_PROGRESS",
    "FINALIZING",
    "COMPLETED",
    "FAILED",
    "EXPIRED",
    "CANCELLING",
    "CANCELLED",
]


class BatchCounts(TypedDict):
    """Jobs by what became of them. `running` holds those that are being cancelled too."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class BatchLinks(TypedDict):
    """Paths of what belongs to the batch."""

    self: str
    jobs: str
    results: str
    errors: str


class Batch(TypedDict):
    """A batch. `COMPLETED` means that every job has ended, well or not: `counts` says how many
    did how. `expire_time` is when jobs that no worker has taken by then become EXPIRED.
    """

    id: str
    name: str
    labels: dict[str, str]
    state: BatchState
    attempt: int
    counts: BatchCounts
    completion_window_s: int | None
    create_time: str
    update_time: str
    cancel_time: str | None
    expire_time: str | None
    end_time: str | None
    links: BatchLinks


class BatchPage(TypedDict):
    """Batches, newest first. With a `next_page_token` there are more."""

    batches: list[Batch]
    next_page_token: str | None

"""What the API says of batches."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from service.domain.batch import BatchCounts, BatchRecord, BatchState, LineOutcome
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState
from service.web.schemas import JobOut, Out


class BatchCountsOut(Out):
    """Jobs by what became of them. `running` holds those that are being cancelled too."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class BatchLinksOut(Out):
    """Paths of what belongs to the batch."""

    self: str
    jobs: str
    results: str
    errors: str


class BatchOut(Out):
    """A batch. `COMPLETED` means that every job has ended, well or not: `counts` says how many did
    how. `expire_time` is when jobs that no worker has taken by then become EXPIRED."""

    id: str
    name: str
    labels: dict[str, str]
    state: BatchState
    attempt: int
    counts: BatchCountsOut
    completion_window_s: int | None
    create_time: datetime
    update_time: datetime
    cancel_time: datetime | None
    expire_time: datetime | None
    end_time: datetime | None
    links: BatchLinksOut

    @classmethod
    def of(cls, batch: BatchRecord) -> Self:
        """A record as the API shows it."""
        base = f"/v1/batches/{batch.id}"
        counts = {name: getattr(batch.counts, name) for name in BatchCounts.__slots__}
        return cls(
            id=batch.id,
            name=batch.name,
            labels=batch.labels,
            state=batch.state,
            attempt=batch.attempt,
            counts=BatchCountsOut(**counts),
            completion_window_s=batch.window_s,
            create_time=batch.create_time,
            update_time=batch.update_time,
            cancel_time=batch.cancel_time,
            expire_time=batch.expire_time,
            end_time=batch.end_time,
            links=BatchLinksOut(
                self=base,
                jobs=f"/v1/jobs?batch_id={batch.id}",
                results=f"{base}/results",
                errors=f"{base}/errors",
            ),
        )


class BatchPage(Out):
    """Batches, newest first. With a `next_page_token` there are more."""

    batches: list[BatchOut]
    next_page_token: str | None


class LineResponse(Out):
    """What `GET /v1/jobs/{id}` answers, or what is left of a job that was deleted."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class LineOut(Out):
    """One line of the results or of the errors. `id` is the job's."""

    id: str
    custom_id: str
    line: int
    state: JobState
    response: LineResponse | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, outcome: LineOutcome) -> Self:
        """What became of a line, as its file shows it."""
        succeeded = outcome.state is JobState.SUCCEEDED
        body = _body(outcome)
        return cls(
            id=outcome.job_id,
            custom_id=outcome.custom_id,
            line=outcome.number,
            state=outcome.state,
            response=LineResponse(status_code=200, request_id=outcome.job_id, body=body)
            if succeeded
            else None,
            error=None if succeeded else body.get("error") or _cancelled(),
        )


def _body(outcome: LineOutcome) -> dict[str, Any]:
    if outcome.job is not None:
        return JobOut.of(outcome.job).model_dump(mode="json")
    kept = outcome.kept or {}
    return {"id": outcome.job_id, "state": outcome.state.value, "deleted": True, **kept}


def _cancelled() -> dict[str, Any]:
    error = ArrowQuantError("job_cancelled", "the job was cancelled", "Retry the batch to run it.")
    return error.as_dict()

"""Operations of `jobs`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import (
    EventPage,
    Job,
    JobPage,
    JobRequest,
    JobState,
    LogPage,
    Tensor,
    TensorPage,
    TensorState,
)


class JobsApi(SyncShell):
    """The operations of `jobs`."""

    def create_job(
        self,
        body: JobRequest,
        *,
        validate_only: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Create a job."""
        return self._send(
            Call[Job](
                "POST", "/v1/jobs", {"validate_only": validate_only}, body=body, key=idempotency_key
            )
        )

    def list_jobs(
        self,
        *,
        state: list[JobState] | None = None,
        name: str | None = None,
        label: list[str] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        batch_id: str | None = None,
        order_by: str | None = None,
        view: Literal["basic", "full"] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> JobPage:
        """List jobs."""
        return self._send(
            Call[JobPage](
                "GET",
                "/v1/jobs",
                {
                    "state": state,
                    "name": name,
                    "label": label,
                    "created_after": created_after,
                    "created_before": created_before,
                    "batch_id": batch_id,
                    "order_by": order_by,
                    "view": view,
                    "page_size": page_size,
                    "page_token": page_token,
                },
            )
        )

    def iter_jobs(
        self,
        *,
        state: list[JobState] | None = None,
        name: str | None = None,
        label: list[str] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        batch_id: str | None = None,
        order_by: str | None = None,
        view: Literal["basic", "full"] | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """List jobs: all pages, or at most `limit` rows."""
        return self._pages(
            Call[Any](
                "GET",
                "/v1/jobs",
                {
                    "state": state,
                    "name": name,
                    "label": label,
                    "created_after": created_after,
                    "created_before": created_before,
                    "batch_id": batch_id,
                    "order_by": order_by,
                    "view": view,
                },
            ),
            "jobs",
            limit,
        )

    def get_job(
        self,
        job_id: str,
        *,
        wait: float | None = None,
        view: Literal["basic", "full"] | None = None,
    ) -> Job:
        """Get a job."""
        return self._send(Call[Job]("GET", at("/v1/jobs/{}", job_id), {"wait": wait, "view": view}))

    def delete_job(
        self,
        job_id: str,
        *,
        artifacts: Literal["keep", "delete"] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Delete a job."""
        return self._send(
            Call[None](
                "DELETE",
                at("/v1/jobs/{}", job_id),
                {"artifacts": artifacts},
                key=idempotency_key,
                answer="none",
            )
        )

    def cancel_job(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Cancel a job."""
        return self._send(Call[Job]("POST", at("/v1/jobs/{}/cancel", job_id), key=idempotency_key))

    def retry_job(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Retry a job."""
        return self._send(Call[Job]("POST", at("/v1/jobs/{}/retry", job_id), key=idempotency_key))

    def list_events(
        self, job_id: str, *, after: int | None = None, page_size: int | None = None
    ) -> EventPage:
        """Follow a job."""
        return self._send(
            Call[EventPage](
                "GET", at("/v1/jobs/{}/events", job_id), {"after": after, "page_size": page_size}
            )
        )

    def list_logs(
        self,
        job_id: str,
        *,
        after: int | None = None,
        level: Literal["debug", "info", "warning", "error"] | None = None,
        tensor: str | None = None,
        page_size: int | None = None,
    ) -> LogPage:
        """Read the log of a job."""
        return self._send(
            Call[LogPage](
                "GET",
                at("/v1/jobs/{}/logs", job_id),
                {"after": after, "level": level, "tensor": tensor, "page_size": page_size},
            )
        )

    def list_tensors(
        self,
        job_id: str,
        *,
        state: TensorState | None = None,
        output: str | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> TensorPage:
        """List the tensors of a job."""
        return self._send(
            Call[TensorPage](
                "GET",
                at("/v1/jobs/{}/tensors", job_id),
                {
                    "state": state,
                    "output": output,
                    "page_size": page_size,
                    "page_token": page_token,
                },
            )
        )

    def iter_tensors(
        self,
        job_id: str,
        *,
        state: TensorState | None = None,
        output: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Tensor]:
        """List the tensors of a job: all pages, or at most `limit` rows."""
        return self._pages(
            Call[Any]("GET", at("/v1/jobs/{}/tensors", job_id), {"state": state, "output": output}),
            "tensors",
            limit,
        )

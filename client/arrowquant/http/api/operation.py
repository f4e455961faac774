"""Operations of `operation`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import QueueList, Worker, WorkerPage


class OperationApi(SyncShell):
    """The operations of `operation`."""

    def list_workers(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> WorkerPage:
        """List the workers."""
        return self._send(
            Call[WorkerPage](
                "GET", "/v1/workers", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_workers(self, *, limit: int | None = None) -> Iterator[Worker]:
        """List the workers: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/workers"), "workers", limit)

    def drain_worker(self, worker_id: str, *, idempotency_key: str | None = None) -> Worker:
        """Drain a worker."""
        return self._send(
            Call[Worker]("POST", at("/v1/workers/{}/drain", worker_id), key=idempotency_key)
        )

    def list_queues(self) -> QueueList:
        """List the queues."""
        return self._send(Call[QueueList]("GET", "/v1/queues"))

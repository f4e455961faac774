"""Operations of `operation`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import QueueList, Worker, WorkerPage


class AsyncOperationApi(AsyncShell):
    """The operations of `operation`, to be awaited."""

    async def list_workers(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> WorkerPage:
        """List the workers."""
        return await self._send(
            Call[WorkerPage](
                "GET", "/v1/workers", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_workers(self, *, limit: int | None = None) -> AsyncIterator[Worker]:
        """List the workers: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/workers"), "workers", limit)

    async def drain_worker(self, worker_id: str, *, idempotency_key: str | None = None) -> Worker:
        """Drain a worker."""
        return await self._send(
            Call[Worker]("POST", at("/v1/workers/{}/drain", worker_id), key=idempotency_key)
        )

    async def list_queues(self) -> QueueList:
        """List the queues."""
        return await self._send(Call[QueueList]("GET", "/v1/queues"))

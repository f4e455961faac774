"""Operations of `batches`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import Batch, BatchPage, BatchState


class AsyncBatchesApi(AsyncShell):
    """The operations of `batches`, to be awaited."""

    async def list_batches(
        self,
        *,
        state: list[BatchState] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> BatchPage:
        """List batches."""
        return await self._send(
            Call[BatchPage](
                "GET",
                "/v1/batches",
                {"state": state, "page_size": page_size, "page_token": page_token},
            )
        )

    def iter_batches(
        self, *, state: list[BatchState] | None = None, limit: int | None = None
    ) -> AsyncIterator[Batch]:
        """List batches: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/batches", {"state": state}), "batches", limit)

    async def create_batch(
        self,
        content: bytes | Path,
        *,
        name: str | None = None,
        label: list[str] | None = None,
        completion_window: str | None = None,
        validate_only: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Create a batch."""
        return await self._send(
            Call[Batch](
                "POST",
                "/v1/batches",
                {
                    "name": name,
                    "label": label,
                    "completion_window": completion_window,
                    "validate_only": validate_only,
                },
                content=content,
                content_type="application/jsonl",
                key=idempotency_key,
            )
        )

    async def get_batch(self, batch_id: str, *, wait: float | None = None) -> Batch:
        """Get a batch."""
        return await self._send(Call[Batch]("GET", at("/v1/batches/{}", batch_id), {"wait": wait}))

    async def delete_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> None:
        """Forget a batch."""
        return await self._send(
            Call[None]("DELETE", at("/v1/batches/{}", batch_id), key=idempotency_key, answer="none")
        )

    async def cancel_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Cancel a batch."""
        return await self._send(
            Call[Batch]("POST", at("/v1/batches/{}/cancel", batch_id), key=idempotency_key)
        )

    async def retry_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Retry what failed."""
        return await self._send(
            Call[Batch]("POST", at("/v1/batches/{}/retry", batch_id), key=idempotency_key)
        )

    async def get_batch_results(self, batch_id: str) -> str:
        """Get what succeeded."""
        return await self._send(
            Call[str](
                "GET",
                at("/v1/batches/{}/results", batch_id),
                answer="text",
                headers={"Accept": "application/jsonl"},
            )
        )

    async def get_batch_errors(self, batch_id: str) -> str:
        """Get what did not succeed."""
        return await self._send(
            Call[str](
                "GET",
                at("/v1/batches/{}/errors", batch_id),
                answer="text",
                headers={"Accept": "application/jsonl"},
            )
        )

"""Operations of `batches`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import Batch, BatchPage, BatchState


class BatchesApi(SyncShell):
    """The operations of `batches`."""

    def list_batches(
        self,
        *,
        state: list[BatchState] | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> BatchPage:
        """List batches."""
        return self._send(
            Call[BatchPage](
                "GET",
                "/v1/batches",
                {"state": state, "page_size": page_size, "page_token": page_token},
            )
        )

    def iter_batches(
        self, *, state: list[BatchState] | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """List batches: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/batches", {"state": state}), "batches", limit)

    def create_batch(
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
        return self._send(
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

    def get_batch(self, batch_id: str, *, wait: float | None = None) -> Batch:
        """Get a batch."""
        return self._send(Call[Batch]("GET", at("/v1/batches/{}", batch_id), {"wait": wait}))

    def delete_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> None:
        """Forget a batch."""
        return self._send(
            Call[None]("DELETE", at("/v1/batches/{}", batch_id), key=idempotency_key, answer="none")
        )

    def cancel_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Cancel a batch."""
        return self._send(
            Call[Batch]("POST", at("/v1/batches/{}/cancel", batch_id), key=idempotency_key)
        )

    def retry_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Retry what failed."""
        return self._send(
            Call[Batch]("POST", at("/v1/batches/{}/retry", batch_id), key=idempotency_key)
        )

    def get_batch_results(self, batch_id: str) -> str:
        """Get what succeeded."""
        return self._send(
            Call[str](
                "GET",
                at("/v1/batches/{}/results", batch_id),
                answer="text",
                headers={"Accept": "application/jsonl"},
            )
        )

    def get_batch_errors(self, batch_id: str) -> str:
        """Get what did not succeed."""
        return self._send(
            Call[str](
                "GET",
                at("/v1/batches/{}/errors", batch_id),
                answer="text",
                headers={"Accept": "application/jsonl"},
            )
        )

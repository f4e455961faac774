"""Operations of `replays`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import Replay, ReplayPage, ReplayRequest


class AsyncReplaysApi(AsyncShell):
    """The operations of `replays`, to be awaited."""

    async def create_replay(
        self, body: ReplayRequest, *, idempotency_key: str | None = None
    ) -> Replay:
        """Make an artifact again."""
        return await self._send(Call[Replay]("POST", "/v1/replays", body=body, key=idempotency_key))

    async def list_replays(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> ReplayPage:
        """List the replays."""
        return await self._send(
            Call[ReplayPage](
                "GET", "/v1/replays", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_replays(self, *, limit: int | None = None) -> AsyncIterator[Replay]:
        """List the replays: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/replays"), "replays", limit)

    async def get_replay(self, job_id: str) -> Replay:
        """Get a replay."""
        return await self._send(Call[Replay]("GET", at("/v1/replays/{}", job_id)))

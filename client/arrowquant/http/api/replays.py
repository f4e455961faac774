"""Operations of `replays`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import Replay, ReplayPage, ReplayRequest


class ReplaysApi(SyncShell):
    """The operations of `replays`."""

    def create_replay(self, body: ReplayRequest, *, idempotency_key: str | None = None) -> Replay:
        """Make an artifact again."""
        return self._send(Call[Replay]("POST", "/v1/replays", body=body, key=idempotency_key))

    def list_replays(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> ReplayPage:
        """List the replays."""
        return self._send(
            Call[ReplayPage](
                "GET", "/v1/replays", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_replays(self, *, limit: int | None = None) -> Iterator[Replay]:
        """List the replays: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/replays"), "replays", limit)

    def get_replay(self, job_id: str) -> Replay:
        """Get a replay."""
        return self._send(Call[Replay]("GET", at("/v1/replays/{}", job_id)))

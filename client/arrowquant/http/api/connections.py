"""Operations of `connections`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import (
    ConnectionChange,
    ConnectionDetail,
    ConnectionList,
    ConnectionRequest,
    Try,
    TryRequest,
)


class ConnectionsApi(SyncShell):
    """The operations of `connections`."""

    def list_connections(self) -> ConnectionList:
        """List the connections."""
        return self._send(Call[ConnectionList]("GET", "/v1/connections"))

    def create_connection(
        self, body: ConnectionRequest, *, idempotency_key: str | None = None
    ) -> ConnectionDetail:
        """Create a connection."""
        return self._send(
            Call[ConnectionDetail]("POST", "/v1/connections", body=body, key=idempotency_key)
        )

    def get_connection(self, name: str) -> ConnectionDetail:
        """Get a connection."""
        return self._send(Call[ConnectionDetail]("GET", at("/v1/connections/{}", name)))

    def update_connection(
        self, name: str, body: ConnectionChange, *, idempotency_key: str | None = None
    ) -> ConnectionDetail:
        """Change a connection."""
        return self._send(
            Call[ConnectionDetail](
                "PATCH", at("/v1/connections/{}", name), body=body, key=idempotency_key
            )
        )

    def delete_connection(self, name: str, *, idempotency_key: str | None = None) -> None:
        """Delete a connection."""
        return self._send(
            Call[None]("DELETE", at("/v1/connections/{}", name), key=idempotency_key, answer="none")
        )

    def test_connection(
        self,
        name: str,
        body: TryRequest | None | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Try:
        """Test a connection."""
        return self._send(
            Call[Try]("POST", at("/v1/connections/{}/test", name), body=body, key=idempotency_key)
        )

"""Operations of `api_keys`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import ApiKey, ApiKeyPage, ApiKeyRequest, RotateRequest, SecretApiKey


class ApiKeysApi(SyncShell):
    """The operations of `api_keys`."""

    def create_api_key(
        self, body: ApiKeyRequest, *, idempotency_key: str | None = None
    ) -> SecretApiKey:
        """Create an API key."""
        return self._send(
            Call[SecretApiKey]("POST", "/v1/api_keys", body=body, key=idempotency_key)
        )

    def list_api_keys(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> ApiKeyPage:
        """List the API keys."""
        return self._send(
            Call[ApiKeyPage](
                "GET", "/v1/api_keys", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_api_keys(self, *, limit: int | None = None) -> Iterator[ApiKey]:
        """List the API keys: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/api_keys"), "api_keys", limit)

    def get_api_key(self, key_id: str) -> ApiKey:
        """Get an API key."""
        return self._send(Call[ApiKey]("GET", at("/v1/api_keys/{}", key_id)))

    def rotate_api_key(
        self,
        key_id: str,
        body: RotateRequest | None | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> SecretApiKey:
        """Rotate an API key."""
        return self._send(
            Call[SecretApiKey](
                "POST", at("/v1/api_keys/{}/rotate", key_id), body=body, key=idempotency_key
            )
        )

    def revoke_api_key(self, key_id: str, *, idempotency_key: str | None = None) -> ApiKey:
        """Revoke an API key."""
        return self._send(
            Call[ApiKey]("POST", at("/v1/api_keys/{}/revoke", key_id), key=idempotency_key)
        )

"""Operations of `api_keys`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import ApiKey, ApiKeyPage, ApiKeyRequest, RotateRequest, SecretApiKey


class AsyncApiKeysApi(AsyncShell):
    """The operations of `api_keys`, to be awaited."""

    async def create_api_key(
        self, body: ApiKeyRequest, *, idempotency_key: str | None = None
    ) -> SecretApiKey:
        """Create an API key."""
        return await self._send(
            Call[SecretApiKey]("POST", "/v1/api_keys", body=body, key=idempotency_key)
        )

    async def list_api_keys(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> ApiKeyPage:
        """List the API keys."""
        return await self._send(
            Call[ApiKeyPage](
                "GET", "/v1/api_keys", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_api_keys(self, *, limit: int | None = None) -> AsyncIterator[ApiKey]:
        """List the API keys: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/api_keys"), "api_keys", limit)

    async def get_api_key(self, key_id: str) -> ApiKey:
        """Get an API key."""
        return await self._send(Call[ApiKey]("GET", at("/v1/api_keys/{}", key_id)))

    async def rotate_api_key(
        self,
        key_id: str,
        body: RotateRequest | None | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> SecretApiKey:
        """Rotate an API key."""
        return await self._send(
            Call[SecretApiKey](
                "POST", at("/v1/api_keys/{}/rotate", key_id), body=body, key=idempotency_key
            )
        )

    async def revoke_api_key(self, key_id: str, *, idempotency_key: str | None = None) -> ApiKey:
        """Revoke an API key."""
        return await self._send(
            Call[ApiKey]("POST", at("/v1/api_keys/{}/revoke", key_id), key=idempotency_key)
        )

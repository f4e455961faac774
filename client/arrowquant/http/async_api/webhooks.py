"""Operations of `webhooks`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import (
    Delivery,
    DeliveryDetail,
    DeliveryPage,
    DeliveryState,
    Endpoint,
    EndpointBody,
    EndpointChange,
    EndpointList,
    EndpointMade,
    HookEvent,
    RotateBody,
)


class AsyncWebhooksApi(AsyncShell):
    """The operations of `webhooks`, to be awaited."""

    async def create_webhook_endpoint(
        self, body: EndpointBody, *, idempotency_key: str | None = None
    ) -> EndpointMade:
        """Create a webhook endpoint."""
        return await self._send(
            Call[EndpointMade]("POST", "/v1/webhook_endpoints", body=body, key=idempotency_key)
        )

    async def list_webhook_endpoints(self) -> EndpointList:
        """List the webhook endpoints."""
        return await self._send(Call[EndpointList]("GET", "/v1/webhook_endpoints"))

    async def rotate_webhook_secret(
        self, endpoint_id: str, body: RotateBody, *, idempotency_key: str | None = None
    ) -> EndpointMade:
        """Rotate a webhook secret."""
        return await self._send(
            Call[EndpointMade](
                "POST",
                at("/v1/webhook_endpoints/{}/rotate_secret", endpoint_id),
                body=body,
                key=idempotency_key,
            )
        )

    async def get_webhook_endpoint(self, endpoint_id: str) -> Endpoint:
        """Get a webhook endpoint."""
        return await self._send(Call[Endpoint]("GET", at("/v1/webhook_endpoints/{}", endpoint_id)))

    async def change_webhook_endpoint(
        self, endpoint_id: str, body: EndpointChange, *, idempotency_key: str | None = None
    ) -> Endpoint:
        """Change a webhook endpoint."""
        return await self._send(
            Call[Endpoint](
                "PATCH", at("/v1/webhook_endpoints/{}", endpoint_id), body=body, key=idempotency_key
            )
        )

    async def delete_webhook_endpoint(
        self, endpoint_id: str, *, idempotency_key: str | None = None
    ) -> None:
        """Delete a webhook endpoint."""
        return await self._send(
            Call[None](
                "DELETE",
                at("/v1/webhook_endpoints/{}", endpoint_id),
                key=idempotency_key,
                answer="none",
            )
        )

    async def test_webhook_endpoint(
        self, endpoint_id: str, *, idempotency_key: str | None = None
    ) -> Delivery:
        """Send a test message."""
        return await self._send(
            Call[Delivery](
                "POST", at("/v1/webhook_endpoints/{}/test", endpoint_id), key=idempotency_key
            )
        )

    async def list_webhook_deliveries(
        self,
        endpoint_id: str,
        *,
        state: DeliveryState | None = None,
        event: HookEvent | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> DeliveryPage:
        """List deliveries."""
        return await self._send(
            Call[DeliveryPage](
                "GET",
                at("/v1/webhook_endpoints/{}/deliveries", endpoint_id),
                {"state": state, "event": event, "page_size": page_size, "page_token": page_token},
            )
        )

    def iter_webhook_deliveries(
        self,
        endpoint_id: str,
        *,
        state: DeliveryState | None = None,
        event: HookEvent | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Delivery]:
        """List deliveries: all pages, or at most `limit` rows."""
        return self._pages(
            Call[Any](
                "GET",
                at("/v1/webhook_endpoints/{}/deliveries", endpoint_id),
                {"state": state, "event": event},
            ),
            "deliveries",
            limit,
        )

    async def get_webhook_delivery(self, delivery_id: str) -> DeliveryDetail:
        """Get a delivery."""
        return await self._send(
            Call[DeliveryDetail]("GET", at("/v1/webhook_endpoints/deliveries/{}", delivery_id))
        )

    async def redeliver_webhook(
        self, delivery_id: str, *, idempotency_key: str | None = None
    ) -> Delivery:
        """Deliver again."""
        return await self._send(
            Call[Delivery](
                "POST",
                at("/v1/webhook_endpoints/deliveries/{}/redeliver", delivery_id),
                key=idempotency_key,
            )
        )

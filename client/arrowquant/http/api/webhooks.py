"""Operations of `webhooks`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
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


class WebhooksApi(SyncShell):
    """The operations of `webhooks`."""

    def create_webhook_endpoint(
        self, body: EndpointBody, *, idempotency_key: str | None = None
    ) -> EndpointMade:
        """Create a webhook endpoint."""
        return self._send(
            Call[EndpointMade]("POST", "/v1/webhook_endpoints", body=body, key=idempotency_key)
        )

    def list_webhook_endpoints(self) -> EndpointList:
        """List the webhook endpoints."""
        return self._send(Call[EndpointList]("GET", "/v1/webhook_endpoints"))

    def rotate_webhook_secret(
        self, endpoint_id: str, body: RotateBody, *, idempotency_key: str | None = None
    ) -> EndpointMade:
        """Rotate a webhook secret."""
        return self._send(
            Call[EndpointMade](
                "POST",
                at("/v1/webhook_endpoints/{}/rotate_secret", endpoint_id),
                body=body,
                key=idempotency_key,
            )
        )

    def get_webhook_endpoint(self, endpoint_id: str) -> Endpoint:
        """Get a webhook endpoint."""
        return self._send(Call[Endpoint]("GET", at("/v1/webhook_endpoints/{}", endpoint_id)))

    def change_webhook_endpoint(
        self, endpoint_id: str, body: EndpointChange, *, idempotency_key: str | None = None
    ) -> Endpoint:
        """Change a webhook endpoint."""
        return self._send(
            Call[Endpoint](
                "PATCH", at("/v1/webhook_endpoints/{}", endpoint_id), body=body, key=idempotency_key
            )
        )

    def delete_webhook_endpoint(
        self, endpoint_id: str, *, idempotency_key: str | None = None
    ) -> None:
        """Delete a webhook endpoint."""
        return self._send(
            Call[None](
                "DELETE",
                at("/v1/webhook_endpoints/{}", endpoint_id),
                key=idempotency_key,
                answer="none",
            )
        )

    def test_webhook_endpoint(
        self, endpoint_id: str, *, idempotency_key: str | None = None
    ) -> Delivery:
        """Send a test message."""
        return self._send(
            Call[Delivery](
                "POST", at("/v1/webhook_endpoints/{}/test", endpoint_id), key=idempotency_key
            )
        )

    def list_webhook_deliveries(
        self,
        endpoint_id: str,
        *,
        state: DeliveryState | None = None,
        event: HookEvent | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> DeliveryPage:
        """List deliveries."""
        return self._send(
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
    ) -> Iterator[Delivery]:
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

    def get_webhook_delivery(self, delivery_id: str) -> DeliveryDetail:
        """Get a delivery."""
        return self._send(
            Call[DeliveryDetail]("GET", at("/v1/webhook_endpoints/deliveries/{}", delivery_id))
        )

    def redeliver_webhook(
        self, delivery_id: str, *, idempotency_key: str | None = None
    ) -> Delivery:
        """Deliver again."""
        return self._send(
            Call[Delivery](
                "POST",
                at("/v1/webhook_endpoints/deliveries/{}/redeliver", delivery_id),
                key=idempotency_key,
            )
        )

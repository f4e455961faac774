"""Webhook endpoints: where to tell of what happens, and the log of what was told."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Query
from starlette.responses import Response

from service.domain.errors import ArrowQuantError
from service.domain.webhooks import Delivery, DeliveryState, Disabled, Endpoint, HookEvent
from service.web.answers import SecretAnswer, failures, json_answer
from service.web.auth import Admin
from service.web.context import Shared
from service.web.idempotency import Documented, IdempotentRoute
from service.web.routes.parameters import PageSize, PageToken
from service.web.webhook_schemas import (
    DeliveryDetail,
    DeliveryOut,
    DeliveryPage,
    EndpointBody,
    EndpointChange,
    EndpointList,
    EndpointMade,
    EndpointOut,
    RotateBody,
)

router = APIRouter(prefix="/v1/webhook_endpoints", tags=["webhooks"], route_class=IdempotentRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "url": "https://hooks.example.com/arrowquant",
    "events": ["job.succeeded", "job.failed"],
    "description": "the build of the mobile app",
}
_REPEATABLE: Final = ("idempotency_key_reused", "idempotency_in_flight")
_ID: Final = re.compile(r"[a-z]{1,8}_[0-9a-z]{1,40}")


def _known(kind: str, value: str) -> str:
    if not _ID.fullmatch(value):
        raise ArrowQuantError("not_found", f"there is no such {kind}")
    return value


# They ask for the key first: who has none learns nothing, not even what an id looks like.
async def _endpoint_id(
    _: Admin,
    endpoint_id: Annotated[str, Path(description="The webhook endpoint's `id`.")],
) -> str:
    return _known("webhook endpoint", endpoint_id)


async def _delivery_id(
    _: Admin,
    delivery_id: Annotated[str, Path(description="The delivery's `id`.")],
) -> str:
    return _known("delivery", delivery_id)


EndpointId = Annotated[str, Depends(_endpoint_id)]
DeliveryId = Annotated[str, Depends(_delivery_id)]


@router.post(
    "",
    operation_id="create_webhook_endpoint",
    summary="Create a webhook endpoint",
    status_code=201,
    response_model=EndpointMade,
    responses=failures(
        "endpoint_not_allowed",
        "secrets_not_configured",
        "webhook_limit",
        "invalid_spec",
        *_REPEATABLE,
    ),
    dependencies=[Documented],
)
def create_endpoint(
    body: Annotated[EndpointBody, Body(openapi_examples={"jobs": {"value": _EXAMPLE}})],
    tenant: Admin,
    shared: Shared,
) -> Response:
    """Tell this URL what happens to your jobs. Messages are signed as Standard Webhooks says; the
    `secret` to verify them with is in this answer and is never shown again."""
    events = [HookEvent(event) for event in body.events]
    made, secret = shared.webhooks.create(tenant, body.url, body.description, events)
    return _with_secret(made, secret, 201)


@router.post(
    "/{endpoint_id}/rotate_secret",
    operation_id="rotate_webhook_secret",
    summary="Rotate a webhook secret",
    response_model=EndpointMade,
    responses=failures("not_found", "secrets_not_configured", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def rotate_secret(
    endpoint_id: EndpointId,
    tenant: Admin,
    shared: Shared,
    body: Annotated[RotateBody, Body(openapi_examples={"a day": {"value": {"overlap_s": 86400}}})],
) -> Response:
    """Sign with a new secret, shown in this answer only. For the overlap messages carry the
    signatures of both, so that receivers can change over without refusing any."""
    made, secret = shared.webhooks.rotate(tenant, endpoint_id, body.overlap_s)
    return _with_secret(made, secret, 200)


@router.get(
    "",
    operation_id="list_webhook_endpoints",
    summary="List the webhook endpoints",
    response_model=EndpointList,
    responses=failures(),
)
def list_endpoints(tenant: Admin, shared: Shared) -> Response:
    """All of them, without their secrets."""
    found = shared.webhooks.webhooks.list(tenant)
    return json_answer(EndpointList(webhook_endpoints=[EndpointOut.of(one) for one in found]))


@router.get(
    "/{endpoint_id}",
    operation_id="get_webhook_endpoint",
    summary="Get a webhook endpoint",
    response_model=EndpointOut,
    responses=failures("not_found"),
)
def get_endpoint(endpoint_id: EndpointId, tenant: Admin, shared: Shared) -> Response:
    """Where its messages go, and whether they get through."""
    return json_answer(EndpointOut.of(shared.webhooks.webhooks.get(tenant, endpoint_id)))


@router.patch(
    "/{endpoint_id}",
    operation_id="change_webhook_endpoint",
    summary="Change a webhook endpoint",
    response_model=EndpointOut,
    responses=failures("not_found", "endpoint_not_allowed", "invalid_spec"),
)
def change_endpoint(
    endpoint_id: EndpointId,
    body: Annotated[EndpointChange, Body(openapi_examples={"off": {"value": {"enabled": False}}})],
    tenant: Admin,
    shared: Shared,
) -> Response:
    """Change what is given. While an endpoint is disabled it collects no messages; those that
    waited already go on waiting, and are sent once it is enabled."""
    values: dict[str, Any] = {}
    for name in ("url", "description"):
        if getattr(body, name) is not None:
            values[name] = getattr(body, name)
    if body.events is not None:
        values["events"] = [HookEvent(event) for event in body.events]
    if body.enabled is not None:
        values["disabled"] = None if body.enabled else Disabled.OWNER
    return json_answer(EndpointOut.of(shared.webhooks.change(tenant, endpoint_id, **values)))


@router.delete(
    "/{endpoint_id}",
    operation_id="delete_webhook_endpoint",
    summary="Delete a webhook endpoint",
    status_code=204,
    response_class=Response,
    responses=failures("not_found"),
)
def delete_endpoint(endpoint_id: EndpointId, tenant: Admin, shared: Shared) -> Response:
    """Remove it with the log of its deliveries. Nothing more is sent."""
    shared.webhooks.webhooks.delete(tenant, endpoint_id)
    return Response(status_code=204)


@router.post(
    "/{endpoint_id}/test",
    operation_id="test_webhook_endpoint",
    summary="Send a test message",
    status_code=202,
    response_model=DeliveryOut,
    responses=failures("not_found", "webhook_disabled", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def test_endpoint(endpoint_id: EndpointId, tenant: Admin, shared: Shared) -> Response:
    """Queue a `ping` that goes the way of every message. What becomes of it is in its delivery, at
    `Location`."""
    return _queued(shared.webhooks.ping(tenant, endpoint_id))


@router.get(
    "/{endpoint_id}/deliveries",
    operation_id="list_webhook_deliveries",
    summary="List deliveries",
    response_model=DeliveryPage,
    responses=failures("not_found", "invalid_page_token", "invalid_spec"),
)
def list_deliveries(
    endpoint_id: EndpointId,
    tenant: Admin,
    shared: Shared,
    state: Annotated[DeliveryState | None, Query(description="Only those in this state.")] = None,
    event: Annotated[HookEvent | None, Query(description="Only messages of this event.")] = None,
    page_size: PageSize = None,
    page_token: PageToken = None,
) -> Response:
    """What was sent to the endpoint or waits to be, newest first."""
    found, token = shared.webhooks.deliveries(
        tenant, endpoint_id, state, event, page_size, page_token
    )
    shown = [DeliveryOut.of(delivery) for delivery in found]
    return json_answer(DeliveryPage(deliveries=shown, next_page_token=token))


@router.get(
    "/deliveries/{delivery_id}",
    operation_id="get_webhook_delivery",
    summary="Get a delivery",
    response_model=DeliveryDetail,
    responses=failures("not_found"),
)
def get_delivery(delivery_id: DeliveryId, tenant: Admin, shared: Shared) -> Response:
    """A message with every attempt to deliver it."""
    return json_answer(DeliveryDetail.whole(shared.webhooks.webhooks.delivery(tenant, delivery_id)))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    operation_id="redeliver_webhook",
    summary="Deliver again",
    status_code=202,
    response_model=DeliveryOut,
    responses=failures("not_found", "webhook_disabled", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def redeliver(delivery_id: DeliveryId, tenant: Admin, shared: Shared) -> Response:
    """Send the same message again, with the same `webhook-id` and the same bytes. One that waits
    for its next attempt is due at once."""
    return _queued(shared.webhooks.webhooks.redeliver(tenant, delivery_id))


def _with_secret(endpoint: Endpoint, secret: str, status: int) -> Response:
    return SecretAnswer(
        EndpointMade.with_secret(endpoint, secret),
        kept=EndpointMade.with_secret(endpoint, None),
        status=status,
        headers={"Location": f"/v1/webhook_endpoints/{endpoint.id}"},
    )


def _queued(delivery: Delivery) -> Response:
    headers = {"Location": f"/v1/webhook_endpoints/deliveries/{delivery.id}"}
    return json_answer(DeliveryOut.of(delivery), 202, headers)

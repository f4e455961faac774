"""What the webhook routes take and answer with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints

from service.domain.webhooks import (
    OVERLAP_S,
    Attempt,
    Delivery,
    DeliveryState,
    Disabled,
    Endpoint,
    EventName,
    HookEvent,
)
from service.domain.wire import Wire
from service.web.schemas import Out

Url = Annotated[str, Field(max_length=2048, examples=["https://hooks.example.com/arrowquant"])]
Description = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")]
Events = Annotated[
    tuple[EventName, ...],
    Field(max_length=16, description="What to be told of; empty: everything."),
]


class EndpointBody(Wire):
    """Where messages go, and which."""

    url: Url
    events: Events = ()
    description: Description = ""


class EndpointChange(Wire):
    """What to change; the rest stays. An endpoint that is enabled again goes on with what waits."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None


class RotateBody(Wire):
    """How long the secret that is replaced signs too."""

    overlap_s: Annotated[int, Field(ge=0, le=7 * 86400)] = OVERLAP_S


class EndpointOut(Out):
    """Where messages go. `disabled_reason`: `owner`, `gone` (the receiver answered 410) or
    `failing` (nothing got through for days). `failing_since` is there while attempts fail."""

    id: str
    url: str
    description: str
    events: list[HookEvent]
    enabled: bool
    disabled_reason: Disabled | None
    failing_since: datetime | None
    old_secret_until: datetime | None
    create_time: datetime
    update_time: datetime

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        """An endpoint as the API shows it, without its secrets."""
        return cls(**_shown(endpoint))


class EndpointMade(EndpointOut):
    """An endpoint with its secret, which is shown this once. In a replayed answer
    (`Idempotency-Key`) `secret` is null: it is not kept. If the first answer was lost, rotate."""

    secret: str | None

    @classmethod
    def with_secret(cls, endpoint: Endpoint, secret: str | None) -> Self:
        """The answer to whoever made the endpoint or rotated its secret."""
        return cls(secret=secret, **_shown(endpoint))


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    same = ("id", "url", "description", "failing_since", "old_secret_until")
    return {
        **{name: getattr(endpoint, name) for name in (*same, "create_time", "update_time")},
        "events": list(endpoint.events),
        "enabled": endpoint.disabled is None,
        "disabled_reason": endpoint.disabled,
    }


class EndpointList(Out):
    """All endpoints, oldest first."""

    webhook_endpoints: list[EndpointOut]


class DeliveryOut(Out):
    """A message to an endpoint. `id` is its `webhook-id`, the same in every attempt; `subject` is
    the job, batch or endpoint that it is about."""

    id: str
    webhook_endpoint: str
    event: HookEvent
    subject: str
    state: DeliveryState
    attempt_count: int
    next_attempt_time: datetime | None
    create_time: datetime
    end_time: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """A delivery as the API shows it."""
        return cls(**_delivery(delivery))


class AttemptOut(Out):
    """One attempt. `status` is what the receiver answered; without an answer `error` says why:
    `timeout`, `connection`, `tls`, `protocol`, `address_refused`, `secret_unreadable` or
    `interrupted`. The body of the answer is neither read nor kept."""

    number: int
    time: datetime
    duration_ms: int | None
    status: int | None
    error: str | None

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """An attempt as the API shows it."""
        return cls.model_validate(attempt)


class DeliveryDetail(DeliveryOut):
    """A delivery with every attempt."""

    attempts: list[AttemptOut]

    @classmethod
    def whole(cls, delivery: Delivery) -> Self:
        """A delivery read with its attempts."""
        tried = [AttemptOut.of(attempt) for attempt in delivery.attempts]
        return cls(attempts=tried, **_delivery(delivery))


def _delivery(delivery: Delivery) -> dict[str, Any]:
    same = ("id", "event", "subject", "state", "attempt_count", "create_time", "end_time")
    return {
        **{name: getattr(delivery, name) for name in same},
        "webhook_endpoint": delivery.endpoint_id,
        "next_attempt_time": delivery.next_time,
    }


class DeliveryPage(Out):
    """Deliveries, newest first. With a `next_page_token` there are more."""

    deliveries: list[DeliveryOut]
    next_page_token: str | None

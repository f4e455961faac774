"""Types of webhooks.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

DeliveryState: TypeAlias = Literal["PENDING", "DELIVERED", "FAILED"]


Disabled: TypeAlias = Literal["owner", "gone", "failing"]


HookEvent: TypeAlias = Literal[
    "job.started",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "batch.completed",
    "ping",
]


class Attempt(TypedDict):
    """One attempt. `status` is what the receiver answered; without an answer `error` says why:
    `timeout`, `connection`, `tls`, `protocol`, `address_refused`, `secret_unreadable` or
    `interrupted`. The body of the answer is neither read nor kept.
    """

    number: int
    time: str
    duration_ms: int | None
    status: int | None
    error: str | None


class DeliveryDetail(TypedDict):
    """A delivery with every attempt."""

    id: str
    webhook_endpoint: str
    event: HookEvent
    subject: str
    state: DeliveryState
    attempt_count: int
    next_attempt_time: str | None
    create_time: str
    end_time: str | None
    attempts: list[Attempt]


class Delivery(TypedDict):
    """A message to an endpoint. `id` is its `webhook-id`, the same in every attempt; `subject`
    is the job, batch or endpoint that it is about.
    """

    id: str
    webhook_endpoint: str
    event: HookEvent
    subject: str
    state: DeliveryState
    attempt_count: int
    next_attempt_time: str | None
    create_time: str
    end_time: str | None


class DeliveryPage(TypedDict):
    """Deliveries, newest first. With a `next_page_token` there are more."""

    deliveries: list[Delivery]
    next_page_token: str | None


class EndpointBody(TypedDict):
    """Where messages go, and which."""

    url: str
    events: NotRequired[
        list[
            Literal[
                "job.started",
                "job.succeeded",
                "job.failed",
                "job.cancelled",
                "job.expired",
                "batch.completed",
            ]
        ]
    ]
    description: NotRequired[str]


class EndpointChange(TypedDict):
    """What to change; the rest stays. An endpoint that is enabled again goes on with what
    waits.
    """

    url: NotRequired[str | None]
    events: NotRequired[
        list[
            Literal[
                "job.started",
                "job.succeeded",
                "job.failed",
                "job.cancelled",
                "job.expired",
                "batch.completed",
            ]
        ]
        | None
    ]
    description: NotRequired[str | None]
    enabled: NotRequired[bool | None]


class EndpointList(TypedDict):
    """All endpoints, oldest first."""

    webhook_endpoints: list[Endpoint]


class EndpointMade(TypedDict):
    """An endpoint with its secret, which is shown this once. In a replayed answer
    (`Idempotency-Key`) `secret` is null: it is not kept. If the first answer was lost,
    rotate.
    """

    id: str
    url: str
    description: str
    events: list[HookEvent]
    enabled: bool
    disabled_reason: Disabled | None
    failing_since: str | None
    old_secret_until: str | None
    create_time: str
    update_time: str
    secret: str | None


class Endpoint(TypedDict):
    """Where messages go. `disabled_reason`: `owner`, `gone` (the receiver answered 410) or
    `failing` (nothing got through for days). `failing_since` is there while attempts fail.
    """

    id: str
    url: str
    description: str
    events: list[HookEvent]
    enabled: bool
    disabled_reason: Disabled | None
    failing_since: str | None
    old_secret_until: str | None
    create_time: str
    update_time: str


class RotateBody(TypedDict):
    """How long the secret that is replaced signs too."""

    overlap_s: NotRequired[int]

"""Webhooks as values and decisions: events, endpoints, deliveries, and when to try again.

A delivery is one message to one endpoint. Its identifier is the `webhook-id` that the receiver
sees, the same in every attempt, and so is its body, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

from service.domain.job import JobState


class HookEvent(StrEnum):
    """What an endpoint can be told of."""

    JOB_STARTED = "job.started"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_EXPIRED = "job.expired"
    BATCH_COMPLETED = "batch.completed"
    PING = "ping"  #: sent on request only, whatever the endpoint's filter


# What a filter may name.
EventName = Literal[
    "job.started",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "batch.completed",
]
JobEventName = Literal["job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired"]
OF_STATE: Final = {
    JobState.RUNNING: HookEvent.JOB_STARTED,
    JobState.SUCCEEDED: HookEvent.JOB_SUCCEEDED,
    JobState.FAILED: HookEvent.JOB_FAILED,
    JobState.CANCELLED: HookEvent.JOB_CANCELLED,
    JobState.EXPIRED: HookEvent.JOB_EXPIRED,
}
MAX_ENDPOINTS: Final = 50
# How long the secret before the last rotation signs too, unless the owner says otherwise.
OVERLAP_S: Final = 24 * 3600


class DeliveryState(StrEnum):
    """Where a delivery is."""

    PENDING = "PENDING"  #: to be sent at `next_time`, for the first time or again
    DELIVERED = "DELIVERED"  #: the receiver answered 2xx
    FAILED = "FAILED"  #: given up; it can be asked for again


class Disabled(StrEnum):
    """Why nothing is sent to an endpoint."""

    OWNER = "owner"  #: its owner turned it off
    GONE = "gone"  #: the receiver answered 410
    FAILING = "failing"  #: nothing got through for days


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where messages go. `events` empty: all. The secrets are sealed, `old_secret` signs too
    until `old_secret_until`. `failing_since`: the first failure after the last success."""

    id: str
    tenant: str
    url: str
    description: str
    events: tuple[HookEvent, ...]
    disabled: Disabled | None
    secret: bytes
    old_secret: bytes | None
    old_secret_until: datetime | None
    failing_since: datetime | None
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. `status` is the receiver's, or None with `error` saying what kept it from
    answering. What it answered beyond that is not kept."""

    number: int
    time: datetime
    duration_ms: int | None
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to an endpoint. `origin` is what caused it, once per endpoint; `attempts` are
    filled in where one delivery is read, else empty."""

    id: str
    endpoint_id: str
    event: HookEvent
    subject: str
    state: DeliveryState
    attempt_count: int
    next_time: datetime | None
    create_time: datetime
    end_time: datetime | None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Errand:
    """A delivery in the hands of a courier until its lease ends: what to send, where, and the
    sealed secrets to sign with. `tries` counts this one since the message was (re)queued."""

    id: str
    endpoint_id: str
    tenant: str
    event: HookEvent
    url: str
    body: bytes
    secrets: tuple[bytes, ...]
    attempt: int
    tries: int
    fence: int
    since: datetime
    failing: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt. `retry_after_s` is the receiver's wish."""

    time: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        return self.status == 410


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a failed message is tried again: after `first_s`, then three times as long each time
    up to `longest_s`, every pause varied by a fifth, until `span_s` after it was queued.

    """

    first_s: float = 10.0
    longest_s: float = 12 * 3600.0
    span_s: float = 72 * 3600.0

    FACTOR: Final = 3.0
    JITTER: Final = 0.2
    LONGEST_WISH_S: Final = 86400.0

    def next_time(
        self,
        now: datetime,
        since: datetime,
        tries: int,
        chance: float,
        wish_s: float | None = None,
    ) -> datetime | None:
        """The time of the try after `tries` that failed, or None to give up.

        chance  uniform in [0, 1)
        wish_s  a Retry-After: never sooner than that (a day at most), nor than our own pause
        """
        pause = min(self.longest_s, self.first_s * self.FACTOR ** min(tries - 1, 30))
        pause *= 1 + self.JITTER * (2 * chance - 1)
        if wish_s is not None:
            pause = max(pause, min(wish_s, self.LONGEST_WISH_S))
        when = now + timedelta(seconds=pause)
        return when if when <= since + timedelta(seconds=self.span_s) else None


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """A page of an endpoint's deliveries, newest first."""

    endpoint_id: str
    state: DeliveryState | None = None
    event: HookEvent | None = None
    before: str | None = None
    limit: int = 50


class Webhooks(Protocol):
    """Endpoints and deliveries, as their owner sees them. Another tenant's raise not_found."""

    def create(self, endpoint: Endpoint) -> None:
        """Raises webhook_limit past MAX_ENDPOINTS of a tenant."""

    def get(self, tenant: str, endpoint_id: str) -> Endpoint: ...

    def list(self, tenant: str) -> Sequence[Endpoint]:
        """By time of creation."""

    def change(self, tenant: str, endpoint_id: str, **values: Any) -> Endpoint:
        """Set `url`, `description`, `events`, `disabled`. Enabling forgets former failures."""

    def rotate(self, tenant: str, endpoint_id: str, secret: bytes, old_until: datetime) -> Endpoint:
        """Sign with a new secret, and until then with the present one too."""

    def delete(self, tenant: str, endpoint_id: str) -> None:
        """Remove it with all its deliveries."""

    def queue(
        self, tenant: str, endpoint_id: str, event: HookEvent, data: dict[str, Any]
    ) -> Delivery:
        """A message to one endpoint, whatever its filter. Raises webhook_disabled."""

    def deliveries(self, tenant: str, query: DeliveryQuery) -> Sequence[Delivery]: ...

    def delivery(self, tenant: str, delivery_id: str) -> Delivery:
        """With its attempts."""

    def redeliver(self, tenant: str, delivery_id: str) -> Delivery:
        """Queue the same message again, or make one that waits due now. Raises
        webhook_disabled."""


class Outbox(Protocol):
    """What couriers take from and report to."""

    def claim(self, limit: int, *, failing: bool = True) -> Sequence[Errand]:
        """Due messages of one endpoint, leased: of the one with the fewest under way, those that
        work first. Without `failing`, only of endpoints whose last attempt got through."""

    def finish(self, errand: Errand, outcome: Outcome, next_time: datetime | None) -> bool:
        """Note an attempt and what follows from it; False if the lease had passed to another.

        next_time  when to try again if it failed; None gives up
        """

    def release(self, errand: Errand) -> None:
        """Give an errand back untried."""

    def forget(self, before: datetime) -> int:
        """Drop deliveries made before a time; how many."""


class Sender(Protocol):
    """Signs and sends one message."""

    def send(self, errand: Errand, secrets: Sequence[str]) -> Outcome:
        """One attempt, signed with each of the secrets. Never raises for what a receiver does, and
        keeps nothing of its answer but the status and Retry-After."""


def shown_job(row: dict[str, Any]) -> dict[str, Any]:
    """What a message says of a job: nothing that is secret, no link that carries a right."""
    base = f"/v1/jobs/{row['id']}"
    return {
        "job": {name: row[name] for name in _SHOWN},
        "links": {"self": base, "report": f"{base}/report", "artifacts": f"{base}/artifacts"},
    }


_SHOWN: Final = (
    "id", "name", "labels", "state", "attempt", "error", "summary",
    "create_time", "start_time", "end_time",
)  # fmt: skip

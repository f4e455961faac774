"""Webhook endpoints and couriers for tests, on a database and a clock to move."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from service.adapters.sql import SqlOutbox, SqlWebhooks
from service.domain.ids import new_id
from service.domain.webhooks import (
    Delivery,
    DeliveryQuery,
    Endpoint,
    Errand,
    Outcome,
    Schedule,
)
from tests.contracts.ledgers import HandClock

LEASE_S = 60.0
DISABLE_S = 5 * 86400.0


class Hooks:
    """A tenant's webhooks and one courier's view of the outbox."""

    def __init__(self, engine: Engine, clock: HandClock, schedule: Schedule | None = None) -> None:
        self.clock = clock
        self.webhooks = SqlWebhooks(engine, clock)
        self.outbox = SqlOutbox(engine, clock, LEASE_S, DISABLE_S)
        self.schedule = schedule or Schedule()

    def endpoint(self, tenant: str = "acme", **changes: Any) -> Endpoint:
        now = self.clock.now()
        values: dict[str, Any] = {
            "url": "https://receiver.test/hook",
            "description": "",
            "events": (),
            "disabled": None,
            "secret": b"new",
            "old_secret": None,
            "old_secret_until": None,
            "failing_since": None,
            "create_time": now,
            "update_time": now,
        }
        made = Endpoint(id=new_id("wh"), tenant=tenant, **(values | changes))
        self.webhooks.create(made)
        return made

    def outcome(self, status: int | None = 200, error: str | None = None) -> Outcome:
        return Outcome(self.clock.now(), 12, status, error)

    def answer(self, errand: Errand, status: int = 200) -> bool:
        """What a courier does with the receiver's answer, without chance."""
        now = self.clock.now()
        when = self.schedule.next_time(now, errand.since, errand.tries, 0.5)
        return self.outbox.finish(errand, self.outcome(status), None if status < 300 else when)

    def log(self, endpoint: Endpoint, **query: Any) -> Sequence[Delivery]:
        return self.webhooks.deliveries(endpoint.tenant, DeliveryQuery(endpoint.id, **query))

    def days(self, number: float) -> None:
        self.clock.moment += timedelta(days=number)

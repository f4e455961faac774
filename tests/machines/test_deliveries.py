"""Any order of anything that can happen to webhook messages, against a model of what may come of
it: nothing is lost, nothing is sent by two at once, the dead are given up."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.adapters.sql import make_engine, migrate
from service.adapters.sql.outbox import AT_ONCE
from service.domain.errors import ArrowQuantError
from service.domain.webhooks import Disabled, Endpoint, Errand, HookEvent, Schedule
from tests.contracts.hooks import DISABLE_S, LEASE_S, Hooks
from tests.contracts.ledgers import HandClock

# Short enough that a few steps give up.
SCHEDULE = Schedule(first_s=30, longest_s=3600, span_s=7200)
STATUSES = (200, 200, 302, 500, 503, 410)


@dataclass
class ModelEndpoint:
    """`failing_since` as told by the answers alone."""

    endpoint: Endpoint
    disabled: Disabled | None = None
    failing_since: datetime | None = None


@dataclass
class ModelMessage:
    """`holder` is the fence of the courier that may still speak for it, until `lease`."""

    endpoint_id: str
    body: bytes | None = None
    state: str = "PENDING"
    due: datetime | None = None
    since: datetime | None = None
    holder: int | None = None
    lease: datetime | None = None
    begun: int = 0
    tries: int = 0
    noted: int = 0


class DeliveryLife(RuleBasedStateMachine):
    """Owners, couriers, receivers and time, all of them arbitrary."""

    template: Path

    endpoints = Bundle("endpoints")
    messages = Bundle("messages")
    errands = Bundle("errands")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = shutil.copy(self.template, Path(self.folder.name) / "ledger.db")
        self.clock = HandClock()
        self.engine = make_engine(f"sqlite:///{path}")
        self.hooks = Hooks(self.engine, self.clock, SCHEDULE)
        self.ends: dict[str, ModelEndpoint] = {}
        self.model: dict[str, ModelMessage] = {}

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @initialize(target=endpoints)
    def begin(self) -> str:
        return self.endpoint()

    @rule(target=endpoints)
    def endpoint(self) -> str:
        made = self.hooks.endpoint()
        self.ends[made.id] = ModelEndpoint(made)
        return made.id

    # The owners.

    @rule(target=messages, endpoint=endpoints, number=st.integers(1, 6))
    def queue(self, endpoint: str, number: int) -> object:
        made = []
        for _ in range(number):
            with self.refused_if(self.ends[endpoint].disabled is not None):
                delivery = self.hooks.webhooks.queue("acme", endpoint, HookEvent.PING, {})
                now = self.clock.now()
                self.model[delivery.id] = ModelMessage(endpoint, due=now, since=now)
                made.append(delivery.id)
        return multiple(*made)

    @rule(endpoint=endpoints, on=st.booleans())
    def switch(self, endpoint: str, on: bool) -> None:
        end = self.ends[endpoint]
        disabled = None if on else Disabled.OWNER
        self.hooks.webhooks.change("acme", endpoint, disabled=disabled)
        if on and end.disabled:
            end.failing_since = None
        end.disabled = disabled

    @rule(message=messages)
    def redeliver(self, message: str) -> None:
        known = self.model[message]
        with self.refused_if(self.ends[known.endpoint_id].disabled is not None):
            self.hooks.webhooks.redeliver("acme", message)
            if known.state != "PENDING":
                known.state, known.since, known.tries = "PENDING", self.clock.now(), 0
            known.due = self.clock.now()

    # The couriers.

    @rule(target=errands, limit=st.integers(1, 5), failing=st.booleans())
    def claim(self, limit: int, failing: bool) -> object:
        return multiple(*self.taken(limit, failing))

    @rule(limit=st.integers(1, 5), status=st.sampled_from(STATUSES))
    def carry(self, limit: int, status: int) -> None:
        """What usually happens: taken and reported."""
        for errand in self.taken(limit, failing=True):
            self.answer(errand, status)

    @rule(message=messages, status=st.sampled_from(STATUSES))
    def again(self, message: str, status: int) -> None:
        """An owner who has mended the receiver."""
        self.redeliver(message)
        self.carry(5, status)

    @rule(errand=errands, status=st.sampled_from(STATUSES))
    def late_or_not(self, errand: Errand, status: int) -> None:
        self.answer(errand, status)

    def taken(self, limit: int, failing: bool) -> list[Errand]:
        possible = self.claimable(failing)
        taken = self.hooks.outbox.claim(limit, failing=failing)
        assert bool(taken) == bool(possible)
        assert len({errand.endpoint_id for errand in taken}) <= 1
        assert len(taken) <= limit
        for errand in taken:
            known = self.model[errand.id]
            assert errand.id in possible
            known.begun += 1
            known.tries += 1
            assert (errand.attempt, errand.tries) == (known.begun, known.tries)
            assert errand.since == known.since
            assert known.body in (None, errand.body)
            known.body = errand.body
            if known.lease is not None:
                known.noted += 1  # the one before, as interrupted
            known.holder = errand.fence
            known.lease = self.clock.now() + timedelta(seconds=LEASE_S)
        return list(taken)

    def answer(self, errand: Errand, status: int) -> None:
        known, end = self.model[errand.id], self.ends[errand.endpoint_id]
        holds = known.holder == errand.fence and known.lease is not None
        assert self.hooks.answer(errand, status) == holds
        if not holds:
            return
        now = self.clock.now()
        known.lease = None
        known.noted += 1
        after = SCHEDULE.next_time(now, errand.since, errand.tries, 0.5)
        if status < 300:
            known.state, end.failing_since = "DELIVERED", None
            return
        if status == 410 or after is None:
            known.state = "FAILED"
        known.due = after
        end.failing_since = end.failing_since or now
        if end.disabled is None:
            if status == 410:
                end.disabled = Disabled.GONE
            elif now - end.failing_since >= timedelta(seconds=DISABLE_S):
                end.disabled = Disabled.FAILING

    @rule(errand=errands)
    def release(self, errand: Errand) -> None:
        known = self.model[errand.id]
        self.hooks.outbox.release(errand)
        if known.holder == errand.fence and known.lease is not None:
            known.lease = None
            known.begun -= 1
            known.tries -= 1

    @rule(seconds=st.sampled_from([1.0, LEASE_S, 600.0, 4000.0, 90_000.0, 3 * 86_400.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.clock.move(seconds)

    # What always holds.

    @invariant()
    def the_log_is_what_happened(self) -> None:
        for message, known in self.model.items():
            delivery = self.hooks.webhooks.delivery("acme", message)
            assert delivery.state == known.state
            assert delivery.attempt_count == known.begun
            assert len(delivery.attempts) == known.noted
            if known.state == "PENDING":
                assert delivery.next_time == known.due
            else:
                assert delivery.next_time is None
                assert delivery.end_time is not None
        for endpoint, end in self.ends.items():
            now = self.hooks.webhooks.get("acme", endpoint)
            assert (now.disabled, now.failing_since) == (end.disabled, end.failing_since)

    # Helpers.

    def leased(self, known: ModelMessage) -> bool:
        return (
            known.state == "PENDING" and known.lease is not None and known.lease > self.clock.now()
        )

    def claimable(self, failing: bool) -> set[str]:
        """Messages that may be taken now."""
        found = set()
        for message, known in self.model.items():
            end = self.ends[known.endpoint_id]
            under_way = sum(
                self.leased(other)
                for other in self.model.values()
                if other.endpoint_id == known.endpoint_id
            )
            due = known.due is not None and known.due <= self.clock.now()
            if (
                known.state == "PENDING"
                and due
                and not self.leased(known)
                and end.disabled is None
                and (failing or end.failing_since is None)
                and under_way < (AT_ONCE if end.failing_since is None else 1)
            ):
                found.add(message)
        return found

    @contextmanager
    def refused_if(self, disabled: bool) -> Iterator[None]:
        if not disabled:
            yield
            return
        with pytest.raises(ArrowQuantError, match=r"^webhook_disabled:"):
            yield


def test_delivery_life(tmp_path: Path) -> None:
    DeliveryLife.template = tmp_path / "empty.db"
    migrate(f"sqlite:///{DeliveryLife.template}")
    run_state_machine_as_test(
        DeliveryLife,
        settings=settings(
            max_examples=settings().max_examples // 8, stateful_step_count=30, deadline=None
        ),
    )

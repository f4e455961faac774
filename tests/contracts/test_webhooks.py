"""Webhooks and their outbox: nothing is lost, nothing is doubled, nobody waits for the dead."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from service.domain.errors import ArrowQuantError
from service.domain.job import UnitKind
from service.domain.webhooks import (
    MAX_ENDPOINTS,
    DeliveryState,
    Disabled,
    Errand,
    HookEvent,
)
from tests.contracts.hooks import LEASE_S, Hooks
from tests.contracts.ledgers import Bench, HandClock, worker

BROKEN = ArrowQuantError("non_finite_weights", "NaN in a tensor", where={"tensor": "x"})


def refused(code: str) -> Any:
    return pytest.raises(ArrowQuantError, match=f"^{code}:")


def due(hooks: Hooks, limit: int = 100) -> list[Errand]:
    """Everything that can be taken now, as one courier takes it."""
    found: list[Errand] = []
    while taken := hooks.outbox.claim(limit):
        found += taken
    return found


def run(bench: Bench) -> None:
    """Do all the work there is, a millisecond after the other."""
    while (claim := bench.ledger.claim(worker())) is not None:
        bench.clock.move(0.001)
        bench.finish(claim)


def names(errands: list[Errand]) -> list[str]:
    return [errand.event.value for errand in errands]


def test_a_jobs_life_makes_one_message_for_each_change(bench: Bench, hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    job = bench.submit(name="dream", labels={"team": "x"})
    assert due(hooks) == []
    run(bench)
    started, succeeded = due(hooks)
    assert names([started, succeeded]) == ["job.started", "job.succeeded"]
    assert (started.url, started.secrets) == (endpoint.url, (b"new",))
    body = orjson.loads(succeeded.body)
    assert body["type"] == "job.succeeded"
    assert body["timestamp"].startswith("2030-01-01T12:00:")
    assert body["timestamp"].endswith("Z")
    shown = body["data"]["job"]
    assert (shown["id"], shown["name"], shown["state"]) == (job.id, "dream", "SUCCEEDED")
    assert (shown["summary"], shown["attempt"]) == ({"parts": 2}, 1)
    assert body["data"]["links"]["self"] == f"/v1/jobs/{job.id}"
    assert not {"request", "resolved"} & shown.keys()


def test_failures_cancellations_and_retries_are_told(bench: Bench, hooks: Hooks) -> None:
    endpoint = hooks.endpoint(events=(HookEvent.JOB_FAILED, HookEvent.JOB_CANCELLED))
    job = bench.submit()
    for _ in range(2):
        bench.ledger.fail_job(bench.take_of(job.id), BROKEN)
        bench.clock.move(0.001)
        bench.ledger.retry_job(job.id)
    bench.ledger.cancel_job(job.id)
    errands = due(hooks)
    assert names(errands) == ["job.failed", "job.failed", "job.cancelled"]
    assert [orjson.loads(errand.body)["data"]["job"]["attempt"] for errand in errands] == [1, 2, 3]
    assert orjson.loads(errands[0].body)["data"]["job"]["error"]["code"] == "non_finite_weights"
    assert len({delivery.id for delivery in hooks.log(endpoint)}) == 3


def test_no_change_no_message(bench: Bench, hooks: Hooks) -> None:
    """A transaction that fails leaves no message, one that is repeated no second one."""
    endpoint = hooks.endpoint()
    job = bench.submit()
    plan = bench.take(UnitKind.PLAN)
    bench.finish(plan)
    bench.finish(plan)
    bench.ledger.cancel_job(job.id)
    with refused("job_active"):
        bench.ledger.retry_job(job.id)
    run(bench)
    bench.ledger.cancel_job(job.id)
    assert [d.event for d in hooks.log(endpoint)] == ["job.cancelled", "job.started"]


def test_each_tenant_and_each_filter(bench: Bench, hooks: Hooks) -> None:
    everything, only_failures = hooks.endpoint(), hooks.endpoint(events=(HookEvent.JOB_FAILED,))
    off = hooks.endpoint(disabled=Disabled.OWNER)
    other = hooks.endpoint("other")
    bench.submit()
    run(bench)
    assert len(hooks.log(everything)) == 2
    assert not any(hooks.log(endpoint) for endpoint in (only_failures, off, other))


def test_a_job_may_name_its_endpoints(bench: Bench, hooks: Hooks) -> None:
    first, second, third = (hooks.endpoint(events=(HookEvent.JOB_FAILED,)) for _ in range(3))
    notify = [
        {"webhook_endpoint": first.id, "events": ["job.succeeded"]},
        {"webhook_endpoint": second.id},
    ]
    for named in (notify, notify[:1]):
        bench.submit(request={"notify": named})
        run(bench)
    assert [d.event for d in hooks.log(first)] == ["job.succeeded"] * 2
    assert not hooks.log(second)
    bench.ledger.fail_job(bench.take_of(bench.submit(request={"notify": notify}).id), BROKEN)
    assert [d.event for d in hooks.log(second)] == ["job.failed"]
    assert not hooks.log(third)


def test_a_delivery_that_succeeds(bench: Bench, hooks: Hooks) -> None:
    endpoint = hooks.endpoint(events=(HookEvent.JOB_STARTED,))
    bench.submit()
    bench.take()
    (errand,) = due(hooks)
    assert due(hooks) == []
    assert hooks.answer(errand, 204)
    assert not hooks.answer(errand, 204)
    (delivery,) = hooks.log(endpoint)
    assert (delivery.state, delivery.next_time) == (DeliveryState.DELIVERED, None)
    assert delivery.attempts == ()
    (attempt,) = hooks.webhooks.delivery("acme", delivery.id).attempts
    assert (attempt.number, attempt.status, attempt.error) == (1, 204, None)
    assert attempt.time == hooks.clock.now()


def test_tried_for_three_days_with_the_same_id_and_bytes(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    made = hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {"n": 1})
    seen = set()
    times = []
    while (delivery := hooks.webhooks.delivery("acme", made.id)).state is DeliveryState.PENDING:
        assert delivery.next_time is not None
        hooks.clock.moment = delivery.next_time
        (errand,) = due(hooks)
        seen.add((errand.id, errand.body))
        times.append(hooks.clock.now())
        assert hooks.answer(errand, 500)
    assert delivery.state is DeliveryState.FAILED
    assert seen == {(made.id, errand.body)}
    span = times[-1] - times[0]
    assert timedelta(days=2) < span <= timedelta(days=3)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[:3] == [timedelta(seconds=s) for s in (10, 30, 90)]
    assert [one.number for one in delivery.attempts] == list(range(1, len(times) + 1))
    assert hooks.webhooks.get("acme", endpoint.id).disabled is None


def test_redelivery_sends_the_same_message_again(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    made = hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    (first,) = due(hooks)
    hooks.answer(first)
    hooks.days(20)
    again = hooks.webhooks.redeliver("acme", made.id)
    assert (again.id, again.state, again.next_time) == (made.id, "PENDING", hooks.clock.now())
    (second,) = due(hooks)
    assert (second.id, second.body, second.attempt, second.tries) == (first.id, first.body, 2, 1)
    # In the hands of a courier: asking again changes nothing of that.
    hooks.webhooks.redeliver("acme", made.id)
    assert due(hooks) == []
    hooks.answer(second, 503)
    # Waiting for its next try: it is due now.
    assert due(hooks) == []
    hooks.webhooks.redeliver("acme", made.id)
    assert [errand.tries for errand in due(hooks)] == [2]


def test_a_courier_that_dies_is_replaced_and_noted(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    made = hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    (lost,) = due(hooks)
    began = hooks.clock.now()
    hooks.clock.move(LEASE_S - 1)
    assert due(hooks) == []
    hooks.clock.move(1)
    (taken,) = due(hooks)
    assert (taken.id, taken.body, taken.attempt) == (lost.id, lost.body, 2)
    assert not hooks.answer(lost)  # too late: its word counts no more
    hooks.outbox.release(lost)
    assert due(hooks) == []
    assert hooks.answer(taken)
    first, second = hooks.webhooks.delivery("acme", made.id).attempts
    assert (first.error, first.status, first.time) == ("interrupted", None, began)
    assert (second.number, second.status) == (2, 200)


def test_an_errand_given_back_was_never_begun(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    (errand,) = due(hooks)
    hooks.outbox.release(errand)
    (again,) = due(hooks)
    assert (again.attempt, again.tries) == (1, 1)
    assert again.fence > errand.fence


def test_410_turns_the_endpoint_off(bench: Bench, hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    bench.submit()
    run(bench)
    first, second = due(hooks)
    assert hooks.answer(first, 410)
    assert hooks.webhooks.get("acme", endpoint.id).disabled is Disabled.GONE
    assert hooks.answer(second, 500)  # was under way
    hooks.days(1)
    assert due(hooks) == []
    with refused("webhook_disabled"):
        hooks.webhooks.redeliver("acme", first.id)
    with refused("webhook_disabled"):
        hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    on = hooks.webhooks.change("acme", endpoint.id, disabled=None)
    assert (on.disabled, on.failing_since) == (None, None)
    assert [errand.id for errand in due(hooks)] == [second.id]


def test_days_of_failures_turn_the_endpoint_off(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    for day in range(6):
        assert hooks.webhooks.get("acme", endpoint.id).disabled is None, day
        hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
        (errand,) = hooks.outbox.claim(1)
        assert hooks.outbox.finish(errand, hooks.outcome(None, "timeout"), None)
        hooks.days(1)
    assert hooks.webhooks.get("acme", endpoint.id).disabled is Disabled.FAILING


def test_one_success_forgives(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    for status in (500, 200, 500):
        hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
        (errand,) = hooks.outbox.claim(1)
        assert hooks.outbox.finish(errand, hooks.outcome(status), None)
        hooks.days(4)
    now = hooks.webhooks.get("acme", endpoint.id)
    assert now.disabled is None
    assert now.failing_since == hooks.clock.now() - timedelta(days=4)


def test_a_dead_endpoint_does_not_hold_up_the_others(hooks: Hooks) -> None:
    dead, well = hooks.endpoint(), hooks.endpoint()
    for endpoint in [dead] * 20 + [well] * 20:
        hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    # Nobody knows yet: both get the same share.
    taken = [errand.endpoint_id for errand in due(hooks)]
    assert sorted(taken) == sorted([dead.id] * 4 + [well.id] * 4)
    hooks.clock.move(LEASE_S)
    errand = next(e for e in due(hooks) if e.endpoint_id == dead.id)
    hooks.answer(errand, 500)
    hooks.clock.move(LEASE_S)
    # Now it does: those that work come first, and the dead one gets a single place.
    first = hooks.outbox.claim(100)
    assert [e.endpoint_id for e in first] == [well.id] * 4
    assert hooks.outbox.claim(100, failing=False) == ()
    assert [e.endpoint_id for e in due(hooks)] == [dead.id]


def test_rotation_signs_with_both_for_a_while(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    until = hooks.clock.now() + timedelta(hours=1)
    hooks.webhooks.rotate("acme", endpoint.id, b"newer", until)
    hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    assert hooks.outbox.claim(1)[0].secrets == (b"newer", b"new")
    hooks.clock.move(3600)
    assert hooks.outbox.claim(1)[0].secrets == (b"newer",)


def test_what_is_anothers_is_not_found(hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    made = hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {})
    webhooks = hooks.webhooks
    for call in (
        lambda: webhooks.get("other", endpoint.id),
        lambda: webhooks.change("other", endpoint.id, description="x"),
        lambda: webhooks.rotate("other", endpoint.id, b"x", hooks.clock.now()),
        lambda: webhooks.delete("other", endpoint.id),
        lambda: webhooks.queue("other", endpoint.id, HookEvent.PING, {}),
        lambda: webhooks.delivery("other", made.id),
        lambda: webhooks.redeliver("other", made.id),
    ):
        with refused("not_found"):
            call()
    assert webhooks.list("other") == []
    webhooks.delete("acme", endpoint.id)
    with refused("not_found"):
        webhooks.delivery("acme", made.id)
    assert due(hooks) == []


def test_the_log_is_filtered_and_forgotten(bench: Bench, hooks: Hooks) -> None:
    endpoint = hooks.endpoint()
    bench.submit()
    run(bench)
    started, succeeded = due(hooks)
    hooks.answer(started)
    assert [d.id for d in hooks.log(endpoint)] == [succeeded.id, started.id]
    assert [d.id for d in hooks.log(endpoint, before=succeeded.id)] == [started.id]
    assert [d.id for d in hooks.log(endpoint, state=DeliveryState.DELIVERED)] == [started.id]
    assert [d.id for d in hooks.log(endpoint, event=HookEvent.JOB_SUCCEEDED)] == [succeeded.id]
    assert hooks.outbox.forget(hooks.clock.now() - timedelta(days=30)) == 0
    hooks.days(31)
    assert hooks.outbox.forget(hooks.clock.now() - timedelta(days=30)) == 2
    assert hooks.log(endpoint) == []


def test_a_tenant_has_a_number_of_endpoints(hooks: Hooks) -> None:
    for _ in range(MAX_ENDPOINTS):
        hooks.endpoint()
    with refused("webhook_limit"):
        hooks.endpoint()
    hooks.endpoint("other")


def test_couriers_at_once_never_take_the_same(
    engine: Engine, clock: HandClock, bench: Bench, hooks: Hooks
) -> None:
    endpoints = [hooks.endpoint() for _ in range(3)]
    for _ in range(5):
        bench.submit()
    run(bench)
    couriers = [Hooks(engine, clock) for _ in range(4)]
    taken: list[Errand] = []

    def carry(courier: Hooks) -> None:
        while len(taken) < 30:
            for errand in courier.outbox.claim(2):
                taken.append(errand)
                assert courier.answer(errand)

    threads = [threading.Thread(target=carry, args=(courier,)) for courier in couriers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == 30
    assert len({errand.id for errand in taken}) == 30
    assert all(errand.attempt == 1 for errand in taken)
    for endpoint in endpoints:
        assert {d.state for d in hooks.log(endpoint)} == {DeliveryState.DELIVERED}


def test_an_endpoint_deleted_while_jobs_change(
    engine: Engine, clock: HandClock, bench: Bench
) -> None:
    """Neither fails because of the other."""
    hooks = Hooks(engine, clock)
    stop = threading.Event()
    errors: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                endpoint = hooks.endpoint()
                hooks.outbox.claim(5)
                hooks.webhooks.delete("acme", endpoint.id)
        except BaseException as error:  # shown by the test
            errors.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    for _ in range(15):
        bench.submit()
        run(bench)
    stop.set()
    thread.join(60)
    assert errors == []

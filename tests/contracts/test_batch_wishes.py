"""What is asked of a whole batch reaches every job once: cancel, retry, a window that closes."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from service.adapters.sql.webhook_tables import deliveries
from service.domain.batch import BatchCounts, BatchState, Doing
from service.domain.errors import ArrowQuantError
from service.domain.job import EventType, JobState, UnitKind
from service.domain.webhooks import HookEvent
from tests.contracts.batches import CHUNK, BatchBench, listen
from tests.contracts.ledgers import Bench, worker


def test_cancelling_reaches_every_job_with_its_events(batched: BatchBench, bench: Bench) -> None:
    count = 3 * CHUNK
    batch = batched.accept(count)
    other = batched.accept(2)
    running = bench.take(UnitKind.PLAN)
    asked = batched.batches.ask(batch.id, "acme", Doing.CANCEL)
    assert asked.state is BatchState.CANCELLING
    assert batched.batches.ask(batch.id, "acme", Doing.CANCEL) == asked  # once is enough
    batched.work_off(batch.id)
    found = batched.batches.get(batch.id)
    assert found.counts == BatchCounts(count, running=1, cancelled=count - 1)
    assert found.state is BatchState.CANCELLING
    bench.finish(bench.take(UnitKind.CLEANUP))
    batched.batches.sweep()
    ended = batched.batches.get(batch.id)
    assert (ended.state, ended.counts.cancelled) == (BatchState.CANCELLED, count)
    assert batched.batches.get(other.id).counts.queued == 2
    for outcome in batched.batches.outcomes(batch.id, [JobState.CANCELLED], page=100):
        history = bench.history(outcome.job_id)
        assert history[-1].type is EventType.DONE
        assert history[-2].data["state"] == "CANCELLED"
        if outcome.job_id != running.job_id:
            assert len(history) == 3
            assert outcome.job is not None
            assert outcome.job.end_time is not None
    assert {claim.job_id for claim in bench.drain()} == {
        outcome.job_id for outcome in batched.batches.outcomes(other.id, [JobState.SUCCEEDED])
    }


def test_another_process_goes_on_with_a_cancel(batched: BatchBench) -> None:
    """The wish is kept in the batch: the sweep of any API process grants it."""
    batch = batched.accept(3)
    batched.batches.ask(batch.id, "acme", Doing.CANCEL)
    for _ in range(4):
        batched.batches.sweep()
    assert batched.batches.get(batch.id).state is BatchState.CANCELLED


def test_an_ended_batch_is_not_cancelled(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(1)
    bench.drain()
    with pytest.raises(ArrowQuantError, match="batch_terminal"):
        batched.batches.ask(batch.id, "acme", Doing.CANCEL)
    batched.batches.sweep()
    with pytest.raises(ArrowQuantError, match="batch_terminal"):
        batched.batches.ask(batch.id, "acme", Doing.CANCEL)


def test_a_retry_takes_only_what_did_not_succeed_and_each_once(
    batched: BatchBench, bench: Bench
) -> None:
    batch = batched.accept(4)
    failing, done = bench.take(UnitKind.PLAN), bench.take(UnitKind.PLAN)
    failed = failing.job_id
    bench.ledger.fail_job(failing, ArrowQuantError("non_finite_weights", "NaN"))
    bench.finish(done)
    while (claim := bench.ledger.claim(worker(), done.job_id)) is not None:
        bench.finish(claim)
    batched.batches.ask(batch.id, "acme", Doing.CANCEL)
    batched.work_off(batch.id)
    bench.drain()
    batched.batches.sweep()
    assert batched.batches.get(batch.id).counts == BatchCounts(
        4, succeeded=1, failed=1, cancelled=2
    )
    batched.clock.move(1)
    again = batched.batches.ask(batch.id, "acme", Doing.RETRY)
    assert (again.state, again.attempt, again.end_time) == (BatchState.IN_PROGRESS, 2, None)
    batched.work_off(batch.id)
    assert batched.batches.get(batch.id).counts == BatchCounts(4, queued=3, succeeded=1)
    assert batched.ledger.get_job(failed).attempt == 2
    bench.drain()
    batched.batches.sweep()
    ended = batched.batches.get(batch.id)
    assert (ended.state, ended.counts) == (BatchState.COMPLETED, BatchCounts(4, succeeded=4))
    assert batched.batches.ask(batch.id, "acme", Doing.RETRY) == ended  # nothing to retry


def test_a_job_that_fails_again_is_not_retried_for_ever(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(2)
    broken = ArrowQuantError("non_finite_weights", "NaN")
    for claim in [bench.take(UnitKind.PLAN), bench.take(UnitKind.PLAN)]:
        bench.ledger.fail_job(claim, broken)
    batched.batches.ask(batch.id, "acme", Doing.RETRY)
    batched.clock.move(1)
    assert batched.batches.advance(batch.id)
    bench.ledger.fail_job(bench.take(UnitKind.PLAN), broken)
    batched.work_off(batch.id)
    assert batched.batches.get(batch.id).counts == BatchCounts(2, queued=1, failed=1)


def test_a_retry_leaves_alone_whose_output_is_in_use_by_now(
    batched: BatchBench, bench: Bench
) -> None:
    batch = batched.accept(2)
    batched.batches.ask(batch.id, "acme", Doing.CANCEL)
    batched.work_off(batch.id)
    batched.batches.sweep()
    place = {"connection": "out", "prefix": f"{batch.id}/1/"}
    bench.submit(request={"output": place})
    batched.clock.move(1)
    batched.batches.ask(batch.id, "acme", Doing.RETRY)
    batched.work_off(batch.id)
    assert batched.batches.get(batch.id).counts == BatchCounts(2, queued=1, cancelled=1)


def test_two_wishes_at_once_are_refused(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(2)
    bench.ledger.fail_job(bench.take(UnitKind.PLAN), ArrowQuantError("non_finite_weights", "NaN"))
    batched.batches.ask(batch.id, "acme", Doing.RETRY)
    with pytest.raises(ArrowQuantError, match="batch_active"):
        batched.batches.ask(batch.id, "acme", Doing.RETRY)
    batched.batches.ask(batch.id, "acme", Doing.CANCEL)  # a cancel always gets through
    with pytest.raises(ArrowQuantError, match="batch_active"):
        batched.batches.ask(batch.id, "acme", Doing.RETRY)


def test_what_nobody_took_in_time_expires(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(CHUNK + 3, window_s=60)
    taken = bench.take(UnitKind.PLAN)
    batched.clock.move(59)
    bench.ledger.heartbeat(taken)
    batched.batches.sweep()
    assert batched.batches.get(batch.id).counts.expired == 0
    batched.clock.move(1)
    bench.ledger.heartbeat(taken)
    batched.batches.sweep()
    found = batched.batches.get(batch.id)
    assert found.counts == BatchCounts(CHUNK + 3, running=1, expired=CHUNK + 2)
    [outcome, *_] = batched.batches.outcomes(batch.id, [JobState.EXPIRED])
    assert outcome.job is not None
    assert outcome.job.error is not None
    assert outcome.job.error["code"] == "batch_expired"
    bench.finish(taken)
    bench.drain()  # what runs is finished
    for _ in range(2):
        batched.batches.sweep()
    assert batched.batches.get(batch.id).state is BatchState.EXPIRED
    batched.clock.move(1)
    again = batched.batches.ask(batch.id, "acme", Doing.RETRY)
    assert again.expire_time is not None
    assert (again.expire_time - batched.clock.now()).total_seconds() == 60
    batched.work_off(batch.id)
    assert batched.batches.get(batch.id).counts.queued == CHUNK + 2


def test_a_bulk_cancel_tells_of_every_job(batched: BatchBench) -> None:
    listen(batched.engine, "acme", [HookEvent.JOB_CANCELLED])
    batch = batched.accept(3)
    batched.batches.ask(batch.id, "acme", Doing.CANCEL)
    batched.work_off(batch.id)
    with batched.engine.begin() as connection:
        told = connection.execute(select(deliveries.c.subject)).scalars().all()
    cancelled = batched.batches.outcomes(batch.id, [JobState.CANCELLED])
    assert sorted(told) == [outcome.job_id for outcome in cancelled]

"""Batches: all lines or none, counts that stay right, and wishes that reach every job once."""

from __future__ import annotations

import orjson
import pytest
from sqlalchemy import Engine, func, insert, select

from service.adapters.sql.batches import UPLOAD_LOST
from service.adapters.sql.tables import metadata
from service.adapters.sql.webhook_tables import deliveries, endpoints
from service.domain.batch import BatchCounts, BatchState, Doing
from service.domain.errors import ArrowQuantError
from service.domain.ids import new_id
from service.domain.job import EventType, JobState, UnitKind
from service.domain.ports import JobQuery
from service.domain.webhooks import HookEvent
from tests.contracts.batches import BatchBench
from tests.contracts.ledgers import Bench, HandClock, worker

# In the tests; the real one would only make more jobs of the same.
CHUNK = 7


@pytest.fixture
def bench(engine: Engine, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> BatchBench:
    monkeypatch.setattr("service.adapters.sql.bulk.CHUNK", CHUNK)
    return BatchBench(engine, clock)


@pytest.fixture
def plain(engine: Engine, database_url: str, clock: HandClock) -> Bench:
    return Bench(engine, database_url, clock)


def rows(bench: BatchBench) -> dict[str, int]:
    """How many rows each table has, but for those that migrations make."""
    with bench.engine.begin() as connection:
        counts = {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }
    return {name: count for name, count in counts.items() if count}


def listen(engine: Engine, tenant: str, wanted: list[HookEvent]) -> None:
    """An endpoint that wants these events."""
    now = HandClock().now()
    with engine.begin() as connection:
        connection.execute(
            insert(endpoints).values(
                id=new_id("wh"),
                tenant=tenant,
                url="https://hooks.example/",
                description="",
                events=[event.value for event in wanted],
                secret=b"sealed",
                create_time=now,
                update_time=now,
            )
        )


def test_a_batch_is_jobs_as_if_submitted_one_by_one(bench: BatchBench, plain: Bench) -> None:
    batch = bench.new()
    lines = bench.lines(batch, 3)
    with bench.batches.stage(batch) as stage:
        stage.add(lines[:2])
        stage.add(lines[2:])
        made = stage.accept(3)
    assert (made.state, made.counts) == (BatchState.IN_PROGRESS, BatchCounts(3, queued=3))
    assert bench.batches.get(batch.id) == made
    found = bench.ledger.list_jobs(JobQuery("acme", batch_id=batch.id))
    assert [job.id for job in found] == [line.job.id for line in reversed(lines)]
    alone = plain.submit(
        request=lines[0].job.request | {"output": {"connection": "o"}}, labels={"line": "1"}
    )
    first = bench.ledger.get_job(lines[0].job.id)
    own = {"id", "name", "request", "batch_id", "create_time", "queue_time", "update_time"}
    for name in set(alone.__slots__) - own:
        assert getattr(first, name) == getattr(alone, name), name
    assert first.request == lines[0].job.request
    assert [event.data for event in bench.ledger.events(first.id, 0, 9)] == [
        event.data for event in bench.ledger.events(alone.id, 0, 9)
    ]
    assert {claim.job_id for claim in plain.drain()} == {line.job.id for line in lines} | {alone.id}


def test_what_is_not_accepted_leaves_nothing(bench: BatchBench) -> None:
    batch = bench.new()
    with bench.batches.stage(batch) as stage:
        stage.add(bench.lines(batch, 5))
        assert bench.batches.get(batch.id).state is BatchState.VALIDATING
        assert rows(bench) == {"batches": 1}
        assert not bench.ledger.has_work()
    assert rows(bench) == {}


def test_an_error_on_the_way_leaves_nothing(bench: BatchBench) -> None:
    batch = bench.new()
    lines = bench.lines(batch, 5)

    def cut_off() -> None:
        with bench.batches.stage(batch) as stage:
            stage.add(lines)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        cut_off()
    assert rows(bench) == {}
    assert bench.accept().counts.total == 3


def test_an_upload_whose_process_died_becomes_failed(bench: BatchBench) -> None:
    batch = bench.new()
    bench.batches._create(batch)
    bench.batches.sweep()
    assert bench.batches.get(batch.id).state is BatchState.VALIDATING
    bench.clock.move(UPLOAD_LOST.total_seconds())
    bench.batches.sweep()
    lost = bench.batches.get(batch.id)
    assert (lost.state, lost.counts.total) == (BatchState.FAILED, 0)
    assert lost.end_time == bench.clock.now()


def test_an_upload_that_was_given_up_is_not_accepted(bench: BatchBench) -> None:
    batch = bench.new()
    with bench.batches.stage(batch) as stage:
        stage.add(bench.lines(batch, 2))
        bench.clock.move(UPLOAD_LOST.total_seconds())
        bench.batches.sweep()
        with pytest.raises(ArrowQuantError, match="upload_timeout"):
            stage.accept(2)
    assert rows(bench) == {"batches": 1}


def test_an_output_in_use_is_found_and_never_shared(bench: BatchBench, plain: Bench) -> None:
    place = {"connection": "out", "prefix": "mine/"}
    plain.submit(request={"output": place})
    batch = bench.new()
    with bench.batches.stage(batch) as stage:
        stage.add([*bench.lines(batch, 2), bench.line(batch, 3, "mine/")])
        assert stage.taken() == [3]
        with pytest.raises(ArrowQuantError, match="output_in_use"):
            stage.accept(3)
    assert {name: n for name, n in rows(bench).items() if name.startswith("batch")} == {}
    assert len(bench.ledger.list_jobs(JobQuery("acme"))) == 1


def test_a_tenant_sees_its_own(bench: BatchBench) -> None:
    first, second = bench.accept(tenant="a"), bench.accept(tenant="b")
    assert [one.id for one in bench.batches.list("a", (), None, 9)] == [first.id]
    for verb in (
        lambda: bench.batches.get(first.id, "b"),
        lambda: bench.batches.ask(first.id, "b", Doing.CANCEL),
        lambda: bench.batches.delete(first.id, "b"),
    ):
        with pytest.raises(ArrowQuantError, match="not_found"):
            verb()
    assert bench.batches.get(second.id, "b") == second


def test_lists_are_newest_first_and_by_state(bench: BatchBench) -> None:
    made = [bench.accept(1) for _ in range(5)]
    bench.batches.ask(made[1].id, "acme", Doing.CANCEL)
    newest = [one.id for one in reversed(made)]
    assert [one.id for one in bench.batches.list("acme", (), None, 3)] == newest[:3]
    assert [one.id for one in bench.batches.list("acme", (), newest[2], 9)] == newest[3:]
    progress = bench.batches.list("acme", [BatchState.IN_PROGRESS], None, 4)
    assert [one.id for one in progress] == [id_ for id_ in newest if id_ != made[1].id]


def test_counts_follow_the_jobs_to_the_end(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(4)
    plain.take(UnitKind.PLAN)
    assert bench.batches.get(batch.id).counts == BatchCounts(4, queued=3, running=1)
    failing = plain.take(UnitKind.PLAN)
    plain.ledger.fail_job(failing, ArrowQuantError("non_finite_weights", "NaN"))
    assert bench.batches.get(batch.id).counts == BatchCounts(4, queued=2, running=1, failed=1)
    plain.clock.move(60)
    while (claim := plain.ledger.claim(worker())) is not None and claim.kind != UnitKind.CLEANUP:
        plain.finish(claim)
    assert claim is not None
    before_cleanup = bench.batches.get(batch.id)
    plain.finish(claim)
    plain.drain()
    final = bench.batches.get(batch.id)
    assert final.counts == BatchCounts(4, succeeded=3, failed=1)
    assert before_cleanup.counts.total == 4
    assert final.state is BatchState.FINALIZING
    bench.batches.sweep()
    ended = bench.batches.get(batch.id)
    assert (ended.state, ended.end_time) == (BatchState.COMPLETED, bench.clock.now())


def test_it_does_not_end_before_it_is_cleaned_up(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(1)
    plain.ledger.fail_job(plain.take(), ArrowQuantError("non_finite_weights", "NaN"))
    bench.batches.sweep()
    assert bench.batches.get(batch.id).state is BatchState.FINALIZING
    plain.finish(plain.take(UnitKind.CLEANUP))
    bench.batches.sweep()
    assert bench.batches.get(batch.id).state is BatchState.COMPLETED


def test_cancelling_reaches_every_job_with_its_events(bench: BatchBench, plain: Bench) -> None:
    count = 3 * CHUNK
    batch = bench.accept(count)
    other = bench.accept(2)
    running = plain.take(UnitKind.PLAN)
    asked = bench.batches.ask(batch.id, "acme", Doing.CANCEL)
    assert asked.state is BatchState.CANCELLING
    assert bench.batches.ask(batch.id, "acme", Doing.CANCEL) == asked  # once is enough
    bench.work_off(batch.id)
    found = bench.batches.get(batch.id)
    assert found.counts == BatchCounts(count, running=1, cancelled=count - 1)
    assert found.state is BatchState.CANCELLING
    plain.finish(plain.take(UnitKind.CLEANUP))
    bench.batches.sweep()
    ended = bench.batches.get(batch.id)
    assert (ended.state, ended.counts.cancelled) == (BatchState.CANCELLED, count)
    assert bench.batches.get(other.id).counts.queued == 2
    for outcome in bench.batches.outcomes(batch.id, [JobState.CANCELLED], page=100):
        history = plain.history(outcome.job_id)
        assert history[-1].type is EventType.DONE
        assert history[-2].data["state"] == "CANCELLED"
        if outcome.job_id != running.job_id:
            assert len(history) == 3
            assert outcome.job is not None
            assert outcome.job.end_time is not None
    assert {claim.job_id for claim in plain.drain()} == {
        outcome.job_id for outcome in bench.batches.outcomes(other.id, [JobState.SUCCEEDED])
    }


def test_another_process_goes_on_with_a_cancel(bench: BatchBench) -> None:
    """The wish is kept in the batch: the sweep of any API process grants it."""
    batch = bench.accept(3)
    bench.batches.ask(batch.id, "acme", Doing.CANCEL)
    for _ in range(4):
        bench.batches.sweep()
    assert bench.batches.get(batch.id).state is BatchState.CANCELLED


def test_an_ended_batch_is_not_cancelled(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(1)
    plain.drain()
    with pytest.raises(ArrowQuantError, match="batch_terminal"):
        bench.batches.ask(batch.id, "acme", Doing.CANCEL)
    bench.batches.sweep()
    with pytest.raises(ArrowQuantError, match="batch_terminal"):
        bench.batches.ask(batch.id, "acme", Doing.CANCEL)


def test_a_retry_takes_only_what_did_not_succeed_and_each_once(
    bench: BatchBench, plain: Bench
) -> None:
    batch = bench.accept(4)
    failing, done = plain.take(UnitKind.PLAN), plain.take(UnitKind.PLAN)
    failed = failing.job_id
    plain.ledger.fail_job(failing, ArrowQuantError("non_finite_weights", "NaN"))
    plain.finish(done)
    while (claim := plain.ledger.claim(worker(), done.job_id)) is not None:
        plain.finish(claim)
    bench.batches.ask(batch.id, "acme", Doing.CANCEL)
    bench.work_off(batch.id)
    plain.drain()
    bench.batches.sweep()
    assert bench.batches.get(batch.id).counts == BatchCounts(4, succeeded=1, failed=1, cancelled=2)
    bench.clock.move(1)
    again = bench.batches.ask(batch.id, "acme", Doing.RETRY)
    assert (again.state, again.attempt, again.end_time) == (BatchState.IN_PROGRESS, 2, None)
    bench.work_off(batch.id)
    assert bench.batches.get(batch.id).counts == BatchCounts(4, queued=3, succeeded=1)
    assert bench.ledger.get_job(failed).attempt == 2
    plain.drain()
    bench.batches.sweep()
    ended = bench.batches.get(batch.id)
    assert (ended.state, ended.counts) == (BatchState.COMPLETED, BatchCounts(4, succeeded=4))
    assert bench.batches.ask(batch.id, "acme", Doing.RETRY) == ended  # nothing to retry


def test_a_job_that_fails_again_is_not_retried_for_ever(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(2)
    broken = ArrowQuantError("non_finite_weights", "NaN")
    for claim in [plain.take(UnitKind.PLAN), plain.take(UnitKind.PLAN)]:
        plain.ledger.fail_job(claim, broken)
    bench.batches.ask(batch.id, "acme", Doing.RETRY)
    bench.clock.move(1)
    assert bench.batches.advance(batch.id)
    plain.ledger.fail_job(plain.take(UnitKind.PLAN), broken)
    bench.work_off(batch.id)
    assert bench.batches.get(batch.id).counts == BatchCounts(2, queued=1, failed=1)


def test_a_retry_leaves_alone_whose_output_is_in_use_by_now(
    bench: BatchBench, plain: Bench
) -> None:
    batch = bench.accept(2)
    bench.batches.ask(batch.id, "acme", Doing.CANCEL)
    bench.work_off(batch.id)
    bench.batches.sweep()
    place = {"connection": "out", "prefix": f"{batch.id}/1/"}
    plain.submit(request={"output": place})
    bench.clock.move(1)
    bench.batches.ask(batch.id, "acme", Doing.RETRY)
    bench.work_off(batch.id)
    assert bench.batches.get(batch.id).counts == BatchCounts(2, queued=1, cancelled=1)


def test_two_wishes_at_once_are_refused(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(2)
    plain.ledger.fail_job(plain.take(UnitKind.PLAN), ArrowQuantError("non_finite_weights", "NaN"))
    bench.batches.ask(batch.id, "acme", Doing.RETRY)
    with pytest.raises(ArrowQuantError, match="batch_active"):
        bench.batches.ask(batch.id, "acme", Doing.RETRY)
    bench.batches.ask(batch.id, "acme", Doing.CANCEL)  # a cancel always gets through
    with pytest.raises(ArrowQuantError, match="batch_active"):
        bench.batches.ask(batch.id, "acme", Doing.RETRY)


def test_what_nobody_took_in_time_expires(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(CHUNK + 3, window_s=60)
    taken = plain.take(UnitKind.PLAN)
    bench.clock.move(59)
    plain.ledger.heartbeat(taken)
    bench.batches.sweep()
    assert bench.batches.get(batch.id).counts.expired == 0
    bench.clock.move(1)
    plain.ledger.heartbeat(taken)
    bench.batches.sweep()
    found = bench.batches.get(batch.id)
    assert found.counts == BatchCounts(CHUNK + 3, running=1, expired=CHUNK + 2)
    [outcome, *_] = bench.batches.outcomes(batch.id, [JobState.EXPIRED])
    assert outcome.job is not None
    assert outcome.job.error is not None
    assert outcome.job.error["code"] == "batch_expired"
    plain.finish(taken)
    plain.drain()  # what runs is finished
    for _ in range(2):
        bench.batches.sweep()
    assert bench.batches.get(batch.id).state is BatchState.EXPIRED
    bench.clock.move(1)
    again = bench.batches.ask(batch.id, "acme", Doing.RETRY)
    assert again.expire_time is not None
    assert (again.expire_time - bench.clock.now()).total_seconds() == 60
    bench.work_off(batch.id)
    assert bench.batches.get(batch.id).counts.queued == CHUNK + 2


def test_counts_outlive_the_jobs(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(3)
    plain.drain()
    bench.batches.sweep()
    lines = list(bench.batches.outcomes(batch.id, [JobState.SUCCEEDED], page=2))
    assert [line.number for line in lines] == [1, 2, 3]
    for line in (lines[0], lines[2]):
        bench.ledger.delete_job(line.job_id, "acme", artifacts=False)
    marked = list(bench.batches.outcomes(batch.id, [JobState.SUCCEEDED]))
    assert [line.job is None for line in marked] == [True, False, True]
    while bench.ledger.sweep():
        pass
    with pytest.raises(ArrowQuantError, match="not_found"):
        bench.ledger.get_job(lines[0].job_id)
    found = bench.batches.get(batch.id)
    assert (found.state, found.counts) == (BatchState.COMPLETED, BatchCounts(3, succeeded=3))
    first, second, third = bench.batches.outcomes(batch.id, [JobState.SUCCEEDED], page=2)
    assert (first.kept, third.kept) == (marked[0].kept, marked[2].kept)
    assert (first.job, third.job) == (None, None)
    assert second.job is not None
    assert first.kept is not None
    assert first.kept["summary"] == {"parts": 2}
    assert first.custom_id == "c1"


def test_forgetting_a_batch_keeps_its_jobs(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(2)
    with pytest.raises(ArrowQuantError, match="batch_active"):
        bench.batches.delete(batch.id, "acme")
    plain.drain()
    bench.batches.sweep()
    bench.batches.delete(batch.id, "acme")
    with pytest.raises(ArrowQuantError, match="not_found"):
        bench.batches.get(batch.id)
    kept = bench.ledger.list_jobs(JobQuery("acme"))
    assert [job.batch_id for job in kept] == [None, None]
    assert not {"batches", "batch_lines"} & set(rows(bench))


def test_its_head_differs_when_something_did(bench: BatchBench, plain: Bench) -> None:
    batch = bench.accept(2)
    heads = {bench.batches.heads([batch.id])[batch.id] for _ in range(2)}
    assert len(heads) == 1
    plain.take()
    heads.add(bench.batches.heads([batch.id, "batch_none"])[batch.id])
    assert len(heads) == 2


def test_a_message_tells_of_its_end_once(bench: BatchBench, plain: Bench) -> None:
    listen(bench.engine, "acme", [HookEvent.BATCH_COMPLETED])
    batch = bench.accept(2)
    plain.drain()
    for _ in range(3):
        bench.batches.sweep()
    with bench.engine.begin() as connection:
        [told] = connection.execute(select(deliveries)).mappings().all()
    body = orjson.loads(told["body"])
    assert (told["subject"], body["type"]) == (batch.id, "batch.completed")
    assert body["data"]["counts"]["succeeded"] == 2
    assert body["data"]["state"] == "COMPLETED"


def test_a_bulk_cancel_tells_of_every_job(bench: BatchBench) -> None:
    listen(bench.engine, "acme", [HookEvent.JOB_CANCELLED])
    batch = bench.accept(3)
    bench.batches.ask(batch.id, "acme", Doing.CANCEL)
    bench.work_off(batch.id)
    with bench.engine.begin() as connection:
        told = connection.execute(select(deliveries.c.subject)).scalars().all()
    cancelled = bench.batches.outcomes(batch.id, [JobState.CANCELLED])
    assert sorted(told) == [outcome.job_id for outcome in cancelled]

"""Batches: all lines or none, counts that stay right, and what outlives them."""

from __future__ import annotations

import orjson
import pytest
from sqlalchemy import func, select

from service.adapters.sql.batches import UPLOAD_LOST
from service.adapters.sql.tables import metadata
from service.adapters.sql.webhook_tables import deliveries
from service.domain.batch import BatchCounts, BatchState, Doing
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind
from service.domain.ports import JobQuery
from service.domain.webhooks import HookEvent
from tests.contracts.batches import BatchBench, listen
from tests.contracts.ledgers import Bench, worker


def rows(batched: BatchBench) -> dict[str, int]:
    """How many rows each table has, but for those that migrations make."""
    with batched.engine.begin() as connection:
        counts = {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }
    return {name: count for name, count in counts.items() if count}


def test_a_batch_is_jobs_as_if_submitted_one_by_one(batched: BatchBench, bench: Bench) -> None:
    batch = batched.new()
    lines = batched.lines(batch, 3)
    with batched.batches.stage(batch) as stage:
        stage.add(lines[:2])
        stage.add(lines[2:])
        made = stage.accept(3)
    assert (made.state, made.counts) == (BatchState.IN_PROGRESS, BatchCounts(3, queued=3))
    assert batched.batches.get(batch.id) == made
    found = batched.ledger.list_jobs(JobQuery("acme", batch_id=batch.id))
    assert [job.id for job in found] == [line.job.id for line in reversed(lines)]
    alone = bench.submit(
        request=lines[0].job.request | {"output": {"connection": "o"}}, labels={"line": "1"}
    )
    first = batched.ledger.get_job(lines[0].job.id)
    own = {"id", "name", "request", "batch_id", "create_time", "queue_time", "update_time"}
    for name in set(alone.__slots__) - own:
        assert getattr(first, name) == getattr(alone, name), name
    assert first.request == lines[0].job.request
    assert [event.data for event in batched.ledger.events(first.id, 0, 9)] == [
        event.data for event in batched.ledger.events(alone.id, 0, 9)
    ]
    assert {claim.job_id for claim in bench.drain()} == {line.job.id for line in lines} | {alone.id}


def test_what_is_not_accepted_leaves_nothing(batched: BatchBench) -> None:
    batch = batched.new()
    with batched.batches.stage(batch) as stage:
        stage.add(batched.lines(batch, 5))
        assert batched.batches.get(batch.id).state is BatchState.VALIDATING
        assert rows(batched) == {"batches": 1}
        assert not batched.ledger.has_work()
    assert rows(batched) == {}


def test_an_error_on_the_way_leaves_nothing(batched: BatchBench) -> None:
    batch = batched.new()
    lines = batched.lines(batch, 5)

    def cut_off() -> None:
        with batched.batches.stage(batch) as stage:
            stage.add(lines)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        cut_off()
    assert rows(batched) == {}
    assert batched.accept().counts.total == 3


def test_an_upload_whose_process_died_becomes_failed(batched: BatchBench) -> None:
    batch = batched.new()
    batched.batches._create(batch)
    batched.batches.sweep()
    assert batched.batches.get(batch.id).state is BatchState.VALIDATING
    batched.clock.move(UPLOAD_LOST.total_seconds())
    batched.batches.sweep()
    lost = batched.batches.get(batch.id)
    assert (lost.state, lost.counts.total) == (BatchState.FAILED, 0)
    assert lost.end_time == batched.clock.now()


def test_an_upload_that_was_given_up_is_not_accepted(batched: BatchBench) -> None:
    batch = batched.new()
    with batched.batches.stage(batch) as stage:
        stage.add(batched.lines(batch, 2))
        batched.clock.move(UPLOAD_LOST.total_seconds())
        batched.batches.sweep()
        with pytest.raises(ArrowQuantError, match="upload_timeout"):
            stage.accept(2)
    assert rows(batched) == {"batches": 1}


def test_an_output_in_use_is_found_and_never_shared(batched: BatchBench, bench: Bench) -> None:
    place = {"connection": "out", "prefix": "mine/"}
    bench.submit(request={"output": place})
    batch = batched.new()
    with batched.batches.stage(batch) as stage:
        stage.add([*batched.lines(batch, 2), batched.line(batch, 3, "mine/")])
        assert stage.taken() == [3]
        with pytest.raises(ArrowQuantError, match="output_in_use"):
            stage.accept(3)
    assert {name: n for name, n in rows(batched).items() if name.startswith("batch")} == {}
    assert len(batched.ledger.list_jobs(JobQuery("acme"))) == 1


def test_a_tenant_sees_its_own(batched: BatchBench) -> None:
    first, second = batched.accept(tenant="a"), batched.accept(tenant="b")
    assert [one.id for one in batched.batches.list("a", (), None, 9)] == [first.id]
    for verb in (
        lambda: batched.batches.get(first.id, "b"),
        lambda: batched.batches.ask(first.id, "b", Doing.CANCEL),
        lambda: batched.batches.delete(first.id, "b"),
    ):
        with pytest.raises(ArrowQuantError, match="not_found"):
            verb()
    assert batched.batches.get(second.id, "b") == second


def test_lists_are_newest_first_and_by_state(batched: BatchBench) -> None:
    made = [batched.accept(1) for _ in range(5)]
    batched.batches.ask(made[1].id, "acme", Doing.CANCEL)
    newest = [one.id for one in reversed(made)]
    assert [one.id for one in batched.batches.list("acme", (), None, 3)] == newest[:3]
    assert [one.id for one in batched.batches.list("acme", (), newest[2], 9)] == newest[3:]
    progress = batched.batches.list("acme", [BatchState.IN_PROGRESS], None, 4)
    assert [one.id for one in progress] == [id_ for id_ in newest if id_ != made[1].id]


def test_counts_follow_the_jobs_to_the_end(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(4)
    bench.take(UnitKind.PLAN)
    assert batched.batches.get(batch.id).counts == BatchCounts(4, queued=3, running=1)
    failing = bench.take(UnitKind.PLAN)
    bench.ledger.fail_job(failing, ArrowQuantError("non_finite_weights", "NaN"))
    assert batched.batches.get(batch.id).counts == BatchCounts(4, queued=2, running=1, failed=1)
    bench.clock.move(60)
    while (claim := bench.ledger.claim(worker())) is not None and claim.kind != UnitKind.CLEANUP:
        bench.finish(claim)
    assert claim is not None
    before_cleanup = batched.batches.get(batch.id)
    bench.finish(claim)
    bench.drain()
    final = batched.batches.get(batch.id)
    assert final.counts == BatchCounts(4, succeeded=3, failed=1)
    assert before_cleanup.counts.total == 4
    assert final.state is BatchState.FINALIZING
    batched.batches.sweep()
    ended = batched.batches.get(batch.id)
    assert (ended.state, ended.end_time) == (BatchState.COMPLETED, batched.clock.now())


def test_it_does_not_end_before_it_is_cleaned_up(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(1)
    bench.ledger.fail_job(bench.take(), ArrowQuantError("non_finite_weights", "NaN"))
    batched.batches.sweep()
    assert batched.batches.get(batch.id).state is BatchState.FINALIZING
    bench.finish(bench.take(UnitKind.CLEANUP))
    batched.batches.sweep()
    assert batched.batches.get(batch.id).state is BatchState.COMPLETED


def test_counts_outlive_the_jobs(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(3)
    bench.drain()
    batched.batches.sweep()
    lines = list(batched.batches.outcomes(batch.id, [JobState.SUCCEEDED], page=2))
    assert [line.number for line in lines] == [1, 2, 3]
    for line in (lines[0], lines[2]):
        batched.ledger.delete_job(line.job_id, "acme", artifacts=False)
    marked = list(batched.batches.outcomes(batch.id, [JobState.SUCCEEDED]))
    assert [line.job is None for line in marked] == [True, False, True]
    while batched.ledger.sweep():
        pass
    with pytest.raises(ArrowQuantError, match="not_found"):
        batched.ledger.get_job(lines[0].job_id)
    found = batched.batches.get(batch.id)
    assert (found.state, found.counts) == (BatchState.COMPLETED, BatchCounts(3, succeeded=3))
    first, second, third = batched.batches.outcomes(batch.id, [JobState.SUCCEEDED], page=2)
    assert (first.kept, third.kept) == (marked[0].kept, marked[2].kept)
    assert (first.job, third.job) == (None, None)
    assert second.job is not None
    assert first.kept is not None
    assert first.kept["summary"] == {"parts": 2}
    assert first.custom_id == "c1"


def test_forgetting_a_batch_keeps_its_jobs(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(2)
    with pytest.raises(ArrowQuantError, match="batch_active"):
        batched.batches.delete(batch.id, "acme")
    bench.drain()
    batched.batches.sweep()
    batched.batches.delete(batch.id, "acme")
    with pytest.raises(ArrowQuantError, match="not_found"):
        batched.batches.get(batch.id)
    kept = batched.ledger.list_jobs(JobQuery("acme"))
    assert [job.batch_id for job in kept] == [None, None]
    assert not {"batches", "batch_lines"} & set(rows(batched))


def test_its_head_differs_when_something_did(batched: BatchBench, bench: Bench) -> None:
    batch = batched.accept(2)
    heads = {batched.batches.heads([batch.id])[batch.id] for _ in range(2)}
    assert len(heads) == 1
    bench.take()
    heads.add(batched.batches.heads([batch.id, "batch_none"])[batch.id])
    assert len(heads) == 2


def test_a_message_tells_of_its_end_once(batched: BatchBench, bench: Bench) -> None:
    listen(batched.engine, "acme", [HookEvent.BATCH_COMPLETED])
    batch = batched.accept(2)
    bench.drain()
    for _ in range(3):
        batched.batches.sweep()
    with batched.engine.begin() as connection:
        [told] = connection.execute(select(deliveries)).mappings().all()
    body = orjson.loads(told["body"])
    assert (told["subject"], body["type"]) == (batch.id, "batch.completed")
    assert body["data"]["counts"]["succeeded"] == 2
    assert body["data"]["state"] == "COMPLETED"

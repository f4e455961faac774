"""Limits of tenants, held by the ledger whoever asks at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from service.adapters.sql import SqlBatches, SqlLedger
from service.adapters.sql.quotas import SqlQuotas
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind
from service.domain.ports import JobQuery
from service.domain.quotas import DayUsage, Quota
from tests.contracts.batches import BatchBench
from tests.contracts.ledgers import LEASE_S, MAX_ATTEMPTS, Bench, HandClock, worker

THREADS = 8
TODAY = date(2030, 1, 1)


@pytest.fixture
def limited(bench: Bench) -> Callable[..., SqlQuotas]:
    """Give the bench's ledger default limits."""

    def limit(**limits: int) -> SqlQuotas:
        quota = Quota(**limits)
        bench.ledger = SqlLedger(bench.engine, bench.clock, LEASE_S, MAX_ATTEMPTS, quota=quota)
        return SqlQuotas(bench.engine, bench.clock, quota)

    return limit


def refused(call: Callable[[], Any]) -> ArrowQuantError:
    with pytest.raises(ArrowQuantError) as caught:
        call()
    assert caught.value.code == "quota_exceeded"
    return caught.value


def test_a_tenants_own_limits_lie_over_the_defaults(engine: Engine, clock: HandClock) -> None:
    quotas = SqlQuotas(engine, clock, Quota(running_jobs=2, queued_jobs=10))
    assert quotas.of("acme") == Quota(running_jobs=2, queued_jobs=10)
    own = {"queued_jobs": None, "bytes_per_day": 5}
    assert quotas.override("acme", own) == Quota(running_jobs=2, bytes_per_day=5)
    assert (quotas.of("acme"), quotas.overrides("acme")) == (Quota(2, None, 5), own)
    assert quotas.of("other") == Quota(2, 10)
    quotas.override("acme", {})
    assert quotas.of("acme") == Quota(2, 10)


def test_the_queue_is_full(bench: Bench, limited: Callable[..., SqlQuotas]) -> None:
    quotas = limited(queued_jobs=2)
    first, _ = bench.submit(), bench.submit()
    error = refused(bench.submit)
    assert error.where["limit"] == "queued_jobs"
    assert error.where["retry_after_s"] > 0
    bench.submit(tenant="other")
    bench.take_of(first.id)  # it runs: there is room for one more
    third = bench.submit()
    refused(bench.submit)
    # A retry enters the queue as well.
    bench.ledger.cancel_job(third.id)
    bench.submit()
    refused(lambda: bench.ledger.retry_job(third.id))
    assert bench.ledger.get_job(third.id).state is JobState.CANCELLED
    quotas.override("acme", {"queued_jobs": None})
    bench.ledger.retry_job(third.id)


def test_a_batch_beyond_the_queue_is_refused_whole(engine: Engine, clock: HandClock) -> None:
    """Not even the jobs for which there was room are taken."""
    batches = BatchBench(engine, clock)
    ledger = SqlLedger(engine, clock, quota=Quota(queued_jobs=4))
    batches.batches = SqlBatches(engine, clock, ledger)
    batches.accept(2)
    error = refused(lambda: batches.accept(3))
    assert error.where["limit"] == "queued_jobs"
    assert len(ledger.list_jobs(JobQuery(tenant="acme"))) == 2
    assert batches.accept(3, tenant="other").counts.queued == 3
    assert batches.accept(2).counts.queued == 2
    refused(lambda: batches.accept(1))


def test_the_bytes_of_a_day(bench: Bench, limited: Callable[..., SqlQuotas]) -> None:
    quotas = limited(bytes_per_day=100)
    bench.submit(source_bytes=60)
    error = refused(lambda: bench.submit(source_bytes=41))
    assert error.where["limit"] == "bytes_per_day"
    assert 0 < error.where["retry_after_s"] <= 12 * 3600
    bench.submit(source_bytes=40)
    standing = quotas.standing("acme")
    assert (standing.bytes_today, standing.queued_jobs) == (100, 2)
    bench.clock.move((standing.reset_time - bench.clock.now()).total_seconds())
    bench.submit(source_bytes=100)
    assert [day.bytes_planned for day in quotas.usage("acme", TODAY, TODAY + timedelta(1))] == [
        100, 100,
    ]  # fmt: skip


def test_bytes_that_were_not_known_are_counted_with_the_plan(
    bench: Bench, limited: Callable[..., SqlQuotas]
) -> None:
    quotas = limited(bytes_per_day=150)
    bench.plan()  # two units of 100 bytes
    assert quotas.standing("acme").bytes_today == 200
    refused(lambda: bench.submit(source_bytes=1))


def test_so_many_jobs_run_and_the_others_wait(
    bench: Bench, limited: Callable[..., SqlQuotas]
) -> None:
    quotas = limited(running_jobs=1)
    first, second = bench.submit(), bench.submit()
    other = bench.submit(tenant="other")
    plan = bench.take(UnitKind.PLAN)
    assert plan.job_id == first.id
    # The other tenant is not held up, and the running job goes on.
    assert bench.take(UnitKind.PLAN).job_id == other.id
    assert not bench.ledger.has_work()
    assert bench.ledger.claim(worker()) is None
    assert bench.ledger.claim(worker(), second.id) is None
    bench.finish(plan)
    assert {bench.take(UnitKind.QUANTIZE).job_id for _ in range(2)} == {first.id}
    assert bench.ledger.get_job(second.id).state is JobState.QUEUED
    # With the first out of the way, the second begins.
    bench.ledger.cancel_job(first.id)
    bench.finish(bench.take(UnitKind.CLEANUP))
    assert bench.take(UnitKind.PLAN).job_id == second.id
    third = bench.submit()
    quotas.override("acme", {"running_jobs": 2})
    assert bench.take(UnitKind.PLAN).job_id == third.id


def test_a_job_that_ends_well_is_counted(bench: Bench, limited: Callable[..., SqlQuotas]) -> None:
    quotas = limited()
    bench.submit(source_bytes=200)
    bench.submit(source_bytes=7)
    bench.drain()
    expected = DayUsage(
        TODAY, jobs=2, jobs_succeeded=2, bytes_planned=207, bytes_in=400, bytes_out=120
    )
    assert quotas.usage("acme", TODAY, TODAY) == [expected]
    assert quotas.usage("other", TODAY, TODAY) == []
    assert quotas.usage("acme", TODAY + timedelta(1), TODAY + timedelta(9)) == []


def at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    barrier = threading.Barrier(count)

    def run() -> Any:
        barrier.wait()
        try:
            return call()
        except ArrowQuantError as error:
            if error.code != "quota_exceeded":
                raise
            return None

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]


def test_submitting_at_once_does_not_pass_the_limits(
    bench: Bench, limited: Callable[..., SqlQuotas]
) -> None:
    quotas = limited(queued_jobs=5, bytes_per_day=40)
    made = at_once(THREADS, lambda: bench.submit(source_bytes=10))
    assert sum(job is not None for job in made) == 4
    assert quotas.standing("acme").bytes_today == 40
    quotas.override("acme", {"bytes_per_day": None})
    made += at_once(THREADS, lambda: bench.submit(source_bytes=10))
    assert sum(job is not None for job in made) == 5
    assert len(bench.ledger.list_jobs(JobQuery(tenant="acme"))) == 5


def test_claiming_at_once_does_not_pass_the_limit(
    bench: Bench, limited: Callable[..., SqlQuotas]
) -> None:
    quotas = limited(running_jobs=3)
    for _ in range(THREADS):
        bench.submit()
    claims = at_once(THREADS, lambda: bench.ledger.claim(worker()))
    assert sum(claim is not None for claim in claims) == 3
    assert quotas.standing("acme").running_jobs == 3

"""Conditions say what is so, and since when."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

from service.adapters.sql import SqlLedger
from service.domain.errors import ArrowQuantError
from service.domain.job import TensorState
from service.domain.quotas import Quota
from tests.contracts.ledgers import LEASE_S, MAX_ATTEMPTS, Bench, HandClock, tensor, worker

AWAY = ArrowQuantError("storage_unavailable", "the store does not answer")
Told = dict[str, tuple[str, str, datetime]]


def told(bench: Bench, job_id: str) -> Told:
    job = bench.ledger.get_job(job_id)
    found: Told = {c.type.value: (c.status.value, c.reason, c.since) for c in job.conditions}
    assert len(found) == len(job.conditions)
    return found


def test_nothing_is_said_of_jobs_that_wait_or_have_ended(bench: Bench) -> None:
    job = bench.submit()
    assert told(bench, job.id) == {}
    bench.drain()
    assert told(bench, job.id) == {}


def test_a_worker_that_answers_falls_silent_and_is_replaced(bench: Bench) -> None:
    job = bench.submit()
    bench.clock.move(5)
    began = bench.clock.now()
    claim = bench.take_of(job.id)
    for _ in range(10):
        bench.clock.move(LEASE_S - 1)
        bench.ledger.heartbeat(claim)
    held = ("TRUE", "LEASE_HELD", began)
    assert told(bench, job.id)["WORKER_RESPONDING"] == held
    bench.clock.move(LEASE_S)
    silent = bench.clock.now()
    bench.clock.move(100)
    assert told(bench, job.id)["WORKER_RESPONDING"] == ("FALSE", "LEASE_EXPIRED", silent)
    assert bench.ledger.claim(worker("w2"), job.id)
    assert told(bench, job.id)["WORKER_RESPONDING"] == ("TRUE", "LEASE_HELD", bench.clock.now())


def test_a_job_that_was_handed_back_waits_for_a_worker(bench: Bench) -> None:
    job = bench.plan()
    began = bench.ledger.get_job(job.id).start_time
    claim = bench.take_of(job.id)
    assert told(bench, job.id)["WORKER_RESPONDING"] == ("TRUE", "LEASE_HELD", began)
    bench.clock.move(3)
    bench.ledger.heartbeat(claim, 10)
    bench.ledger.release(claim, 0)
    handed_back = bench.clock.now()
    bench.clock.move(100)
    waits = ("UNKNOWN", "WAITING_FOR_WORKER", handed_back)
    assert told(bench, job.id) == {"WORKER_RESPONDING": waits}
    bench.take_of(job.id)
    assert told(bench, job.id)["WORKER_RESPONDING"] == ("TRUE", "LEASE_HELD", bench.clock.now())


def test_a_store_that_fails_throttles_until_it_does_not(bench: Bench) -> None:
    job = bench.plan()
    first = bench.clock.now()
    for _ in range(2):
        bench.ledger.release(bench.take_of(job.id), 0, AWAY)
        bench.clock.move(2)
    assert told(bench, job.id)["THROTTLED"] == ("TRUE", "STORAGE_UNAVAILABLE", first)
    claim = bench.take_of(job.id)
    assert "THROTTLED" in told(bench, job.id)
    bench.finish(claim)
    assert "THROTTLED" not in told(bench, job.id)


def test_an_error_that_is_not_the_stores_throttles_nothing(bench: Bench) -> None:
    job = bench.plan()
    bench.ledger.release(bench.take_of(job.id), 0, ArrowQuantError("internal", "broken"))
    assert "THROTTLED" not in told(bench, job.id)


def test_a_tenant_at_its_limit_is_throttled(bench: Bench, engine: Engine, clock: HandClock) -> None:
    bench.ledger = SqlLedger(engine, clock, LEASE_S, MAX_ATTEMPTS, quota=Quota(running_jobs=1))
    running, waiting = bench.submit(), bench.submit()
    other = bench.submit("other")
    assert told(bench, waiting.id) == {}
    bench.clock.move(10)
    claim = bench.take_of(running.id)
    began = bench.clock.now()
    bench.clock.move(10)
    assert told(bench, waiting.id) == {"THROTTLED": ("TRUE", "QUOTA", began)}
    assert told(bench, other.id) == {}
    late = bench.submit()
    assert told(bench, late.id) == {"THROTTLED": ("TRUE", "QUOTA", late.create_time)}
    bench.ledger.fail_job(claim, AWAY)
    assert told(bench, waiting.id) == {}


def test_tensors_that_fell_back_degrade(bench: Bench) -> None:
    job = bench.plan()
    claim = bench.take_of(job.id)
    bench.ledger.tensors_done(claim, [tensor(0, TensorState.DONE)])
    assert "DEGRADED_QUALITY" not in told(bench, job.id)
    bench.clock.move(1)
    bench.ledger.tensors_done(claim, [tensor(1, TensorState.FALLBACK)])
    since = bench.clock.now()
    bench.clock.move(1)
    bench.finish(claim)
    bench.drain()
    assert told(bench, job.id) == {"DEGRADED_QUALITY": ("TRUE", "FALLBACK", since)}
    assert bench.clock.now() - since == timedelta(seconds=1)

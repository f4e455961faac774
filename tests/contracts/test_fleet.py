"""Who is at work, who is lost, who is to stop, and what waits."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from service.adapters.sql.fleet import SqlFleet
from service.domain.errors import ArrowQuantError
from service.domain.fleet import Fleet, Queue, WorkerState
from service.domain.job import UnitKind, Worker
from tests.contracts.ledgers import LEASE_S, Bench, HandClock, worker

FIRST, SECOND = worker("w1"), worker("w2", pid=2)


@pytest.fixture
def fleet(engine: Engine, clock: HandClock) -> Fleet:
    return SqlFleet(engine, clock, LEASE_S)


def beat(fleet: Fleet, who: Worker, *, draining: bool = False, rss: int = 1000) -> bool:
    return fleet.beat(who, "1.2.3", rss, draining=draining)


def state_of(fleet: Fleet, who: Worker) -> WorkerState:
    [state] = [one.state for one in fleet.workers() if one.name == who.name]
    return state


def test_workers_say_that_they_live(fleet: Fleet, clock: HandClock) -> None:
    started = clock.now()
    assert beat(fleet, FIRST) is False
    clock.move(4)
    beat(fleet, FIRST, rss=5000)
    clock.move(3)
    [found] = fleet.workers()
    assert (found.name, found.host, found.pid) == (FIRST.name, FIRST.host, FIRST.pid)
    assert (found.version, found.rss_bytes, found.heartbeat_age_s) == ("1.2.3", 5000, 3)
    assert (found.start_time, found.state) == (started, WorkerState.IDLE)
    assert fleet.worker(found.id) == found


def test_what_a_worker_holds_is_told(bench: Bench, fleet: Fleet) -> None:
    job = bench.submit()
    beat(fleet, FIRST)
    beat(fleet, SECOND)
    claim = bench.take(UnitKind.PLAN, by=SECOND)
    busy = {one.name: one for one in fleet.workers()}[SECOND.name]
    assert busy.state is WorkerState.BUSY
    assert busy.unit is not None
    assert (busy.unit.job_id, busy.unit.tenant, busy.unit.kind) == (job.id, "acme", UnitKind.PLAN)
    assert state_of(fleet, FIRST) is WorkerState.IDLE
    bench.finish(claim)
    assert state_of(fleet, SECOND) is WorkerState.IDLE


def test_draining_is_asked_once_and_heard(bench: Bench, fleet: Fleet) -> None:
    bench.submit()
    beat(fleet, FIRST)
    claim = bench.take(by=FIRST)
    [found] = fleet.workers()
    asked = fleet.drain(found.id)
    assert asked.state is WorkerState.DRAINING
    bench.clock.move(1)
    assert fleet.drain(found.id).drain_time == asked.drain_time
    assert beat(fleet, FIRST) is True
    bench.finish(claim)
    assert state_of(fleet, FIRST) is WorkerState.DRAINED
    # Its successor shares the wish of the process that started both.
    assert beat(fleet, SECOND, draining=True) is True
    assert state_of(fleet, SECOND) is WorkerState.DRAINED


def test_who_is_not_heard_of_is_lost_and_then_forgotten(fleet: Fleet, clock: HandClock) -> None:
    beat(fleet, FIRST)
    clock.move(LEASE_S + 1)
    beat(fleet, SECOND)
    assert state_of(fleet, FIRST) is WorkerState.LOST
    clock.move(3500)
    assert fleet.forget_lost() == 0
    clock.move(90)
    assert fleet.forget_lost() == 1
    assert [one.name for one in fleet.workers()] == [SECOND.name]
    fleet.leave(SECOND)
    assert fleet.workers() == []


def test_an_unknown_worker(fleet: Fleet) -> None:
    for ask in (fleet.worker, fleet.drain):
        with pytest.raises(ArrowQuantError, match=r"^not_found:"):
            ask("wrk_0")


def test_pages(fleet: Fleet) -> None:
    for pid in range(5):
        beat(fleet, worker(f"w{pid}", pid=pid))
    everyone = [one.id for one in fleet.workers()]
    assert everyone == sorted(everyone)
    assert [one.id for one in fleet.workers(everyone[1], 2)] == everyone[2:4]


def queue(fleet: Fleet, priority: int) -> Queue:
    return {one.priority: one for one in fleet.queues()}[priority]


def test_queues_by_priority_and_tenant(bench: Bench, fleet: Fleet) -> None:
    assert [one.priority for one in fleet.queues()] == [2, 1, 0]
    bench.submit(priority=1)
    bench.clock.move(10)
    bench.submit(priority=1, tenant="other")
    bench.plan(priority=0)  # two units to quantize
    bench.clock.move(5)
    normal = queue(fleet, 1)
    assert (normal.depth, normal.jobs, normal.leased) == (2, 2, 0)
    assert normal.oldest_age_s == pytest.approx(15, abs=0.1)
    assert [(one.tenant, one.depth) for one in normal.tenants] == [("acme", 1), ("other", 1)]
    low = queue(fleet, 0)
    assert (low.depth, low.jobs, low.oldest_age_s) == (2, 0, None)
    assert (queue(fleet, 2).depth, queue(fleet, 2).tenants) == (0, [])


def test_what_is_taken_and_what_was_given_back(bench: Bench, fleet: Fleet) -> None:
    bench.plan(priority=1)
    claim = bench.take()
    assert (queue(fleet, 1).depth, queue(fleet, 1).leased) == (1, 1)
    bench.ledger.release(claim, 60, ArrowQuantError("storage_unavailable", "away"))
    found = queue(fleet, 1)
    assert (found.depth, found.delayed, found.leased) == (1, 1, 0)
    bench.take()
    bench.clock.move(LEASE_S + 1)  # its holder died
    assert queue(fleet, 1).depth == 1
    bench.clock.move(60)
    assert (queue(fleet, 1).depth, queue(fleet, 1).leased) == (2, 0)

"""Many at once: threads, processes, and real servers that do not wait for one another."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.pool import Pool
from typing import TypeVar

import pytest

from service.adapters.sql import SqlLedger, make_engine
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import Claim, EventType, JobState, UnitKind, Worker
from service.domain.ports import JobQuery
from tests.contracts.ledgers import Bench, part, piece, unit, worker

T = TypeVar("T")
THREADS = 8


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Run each call in a thread of its own, all let go at the same moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures: list[Future[T]] = [pool.submit(run, call) for call in calls]
        return [future.result() for future in futures]


def test_threads_never_share_a_unit(bench: Bench) -> None:
    for number in range(6):
        bench.plan([unit(seq) for seq in range(4)], tenant=f"t{number % 3}")

    def take_all() -> list[Claim]:
        claims = []
        while (claim := bench.ledger.claim(worker())) is not None:
            claims.append(claim)
        return claims

    claims = [claim for taken in at_once(*[take_all] * THREADS) for claim in taken]
    assert len(claims) == len({(claim.job_id, claim.seq) for claim in claims}) == 24
    assert {claim.fence for claim in claims} == {1}


class LateClock:
    """The machine's clock, ahead of where the hand clock stands."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=3650)


def work(url: str) -> list[tuple[str, str, int]]:
    """What a worker process does until every job is done."""
    engine = make_engine(url)
    ledger = SqlLedger(engine, LateClock(), lease_s=60)
    me = Worker(f"here:{os.getpid()}:0", "here", os.getpid())
    finished = []
    # While another process finishes the last unit there is nothing to claim; then there is.
    while not all(job.state is JobState.SUCCEEDED for job in ledger.list_jobs(JobQuery("acme"))):
        claim = ledger.claim(me)
        if claim is None:
            continue
        match claim.kind:
            case UnitKind.QUANTIZE:
                ledger.heartbeat(claim, 50)
                assert ledger.unit_done(claim, part(claim.seq), claim.todo[0])
            case _:
                ledger.publish_done(claim, {})
        finished.append((claim.job_id, claim.kind.value, claim.seq))
    engine.dispose()
    return finished


def test_processes_do_everything_exactly_once(bench: Bench) -> None:
    jobs = [bench.plan([unit(seq) for seq in range(8)]) for _ in range(5)]
    pool: Pool
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        done = Counter(entry for log in pool.map(work, [bench.url] * 4, 1) for entry in log)
        pool.close()
        pool.join()
    expected = [(job.id, "quantize", seq) for job in jobs for seq in range(8)]
    expected += [(job.id, "publish", 0) for job in jobs]
    assert done == Counter(expected)
    for job in jobs:
        events = bench.history(job.id)
        assert [e.type for e in events].count(EventType.ARTIFACT) == 1
        progress = [e.data["bytes_done"] for e in events if e.type is EventType.PROGRESS]
        assert progress == sorted(progress)
        assert bench.ledger.get_job(job.id).progress.units_done == 8


@pytest.mark.parametrize("round_", range(5))
def test_the_last_units_finished_at_once_publish_once(bench: Bench, round_: int) -> None:
    bench.plan([unit(seq) for seq in range(THREADS)])
    claims = [bench.take() for _ in range(THREADS)]
    at_once(*[lambda c=claim: bench.finish(c) for claim in claims])
    found = at_once(*[lambda: bench.ledger.claim(worker())] * THREADS)
    publish = [claim for claim in found if claim is not None]
    assert [claim.kind for claim in publish] == [UnitKind.PUBLISH]


@pytest.mark.parametrize("round_", range(5))
def test_the_last_measurements_at_once_are_seen_whole_by_someone(bench: Bench, round_: int) -> None:
    bench.plan([unit(seq, 0) for seq in range(THREADS)])
    claims = [bench.take() for _ in range(THREADS)]
    answers = at_once(*[lambda c=c: bench.ledger.unit_errors(c, [piece(0)]) for c in claims])
    whole = [answer for answer in answers if answer]
    assert whole == [{0: [piece(0)] * THREADS}]
    escalated = at_once(*[lambda c=c: bench.ledger.escalate(c, 0, 4, 8, {}) for c in claims])
    assert escalated.count(True) == 1


def test_events_have_no_gaps_whoever_writes(bench: Bench) -> None:
    job = bench.plan([unit(seq) for seq in range(THREADS)])
    claims = [bench.take() for _ in range(THREADS)]
    error = ArrowQuantError("storage_unavailable", "slow down")

    patient = SqlLedger(bench.engine, bench.clock, max_attempts=1000)

    def complain(claim: Claim) -> None:
        for _ in range(10):
            patient.release(claim, 0, error)
            again = patient.claim(worker(), job.id)
            assert again is not None  # there are as many units as threads
            claim = again

    at_once(*[lambda c=claim: complain(c) for claim in claims])
    warnings = [e for e in bench.history(job.id) if e.type is EventType.WARNING]
    assert len(warnings) == 10 * THREADS


@pytest.mark.parametrize("round_", range(5))
def test_cancelling_races_with_the_end(bench: Bench, round_: int) -> None:
    job = bench.plan([unit(0)])
    bench.finish(bench.take())
    publish = bench.take(UnitKind.PUBLISH)

    def end() -> str:
        try:
            bench.ledger.publish_done(publish, {})
        except LeaseLost:
            return "lost"
        return "published"

    def cancel() -> str:
        try:
            return bench.ledger.cancel_job(job.id).state
        except ArrowQuantError as error:
            return error.code

    outcome = at_once(end, cancel)
    assert outcome in (["published", "job_terminal"], ["lost", "CANCELLING"])
    bench.drain()
    ended = {"published": JobState.SUCCEEDED, "lost": JobState.CANCELLED}[outcome[0]]
    assert bench.ledger.get_job(job.id).state is ended
    assert [e.type for e in bench.history(job.id)].count(EventType.DONE) == 1


def test_everything_at_once_ends_well(bench: Bench) -> None:
    """Workers, people who cancel and retry, and a host that frees its dead, none of them polite."""
    jobs = [bench.plan([unit(0, 0), unit(1, 0, 1), unit(2, 1)]) for _ in range(3)]
    stop = threading.Event()

    def worker_loop() -> None:
        while not stop.is_set():
            claim = bench.ledger.claim(worker(pid=threading.get_ident() % 10_000))
            if claim is None:
                continue
            try:
                if claim.kind is UnitKind.PLAN:
                    bench.plan_done(claim, [unit(0, 0), unit(1, 0, 1), unit(2, 1)])
                else:
                    bench.finish(claim)
            except LeaseLost:
                pass

    refusals: set[str] = set()

    def owner_loop() -> None:
        for turn in range(30):
            for verb in (bench.ledger.cancel_job, bench.ledger.retry_job):
                try:
                    verb(jobs[turn % 3].id)
                except ArrowQuantError as error:
                    refusals.add(error.code)
            bench.ledger.release_dead("h1", [])
        stop.set()

    at_once(owner_loop, *[worker_loop] * 4)
    assert refusals <= {"job_terminal", "job_active"}
    for job in jobs:
        if bench.ledger.get_job(job.id).state is JobState.CANCELLED:
            bench.ledger.retry_job(job.id)
    bench.clock.move(60)
    while (claim := bench.ledger.claim(worker())) is not None:
        if claim.kind is UnitKind.PLAN:
            bench.plan_done(claim, [unit(0, 0), unit(1, 0, 1), unit(2, 1)])
        else:
            bench.finish(claim)
    for job in jobs:
        assert bench.ledger.get_job(job.id).state in (JobState.SUCCEEDED, JobState.CANCELLED)
        bench.history(job.id)

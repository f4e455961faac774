"""Leases: who gets which unit, for how long, and what a former holder can no longer do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.adapters.sql.lanes import AGING
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import Claim, EventType, JobState, Phase, UnitKind
from service.domain.ports import Ledger
from tests.contracts.ledgers import (
    LEASE_S,
    MAX_ATTEMPTS,
    RESOLVED,
    Bench,
    part,
    piece,
    tensor,
    unit,
    worker,
)

OUTAGE = ArrowQuantError("storage_unavailable", "the store did not answer")

WRITES: dict[str, Callable[[Ledger, Claim], object]] = {
    "heartbeat": lambda ledger, claim: ledger.heartbeat(claim),
    "unit_errors": lambda ledger, claim: ledger.unit_errors(claim, [piece(0)]),
    "escalate": lambda ledger, claim: ledger.escalate(claim, 0, 4, 8, {}),
    "unit_todo": lambda ledger, claim: ledger.unit_todo(claim),
    "unit_done": lambda ledger, claim: ledger.unit_done(claim, part(0), {}),
    "tensors_done": lambda ledger, claim: ledger.tensors_done(claim, [tensor(0)]),
    "set_phase": lambda ledger, claim: ledger.set_phase(claim, Phase.VERIFYING),
    "plan_done": lambda ledger, claim: ledger.plan_done(claim, RESOLVED, [], []),
    "publish_done": lambda ledger, claim: ledger.publish_done(claim, {}),
    "reopen_unit": lambda ledger, claim: ledger.reopen_unit(claim, 0, ""),
    "cleanup_done": lambda ledger, claim: ledger.cleanup_done(claim),
    "release": lambda ledger, claim: ledger.release(claim, 0),
    "fail_job": lambda ledger, claim: ledger.fail_job(claim, OUTAGE),
}


def test_nothing_to_do(bench: Bench) -> None:
    assert bench.ledger.claim(worker()) is None
    assert not bench.ledger.has_work()


def test_the_first_claim_starts_the_job(bench: Bench) -> None:
    job = bench.submit()
    assert bench.ledger.has_work()
    claim = bench.take(UnitKind.PLAN)
    assert (claim.job_id, claim.tenant, claim.seq) == (job.id, "acme", 0)
    assert (claim.fence, claim.attempt, claim.todo) == (1, 0, {})
    assert (claim.request, claim.resolved) == (job.request, job.resolved)
    started = bench.ledger.get_job(job.id)
    assert (started.state, started.phase) == (JobState.RUNNING, Phase.PLANNING)
    assert started.start_time == bench.clock.now()
    assert not bench.ledger.has_work()


def test_priority_comes_before_age(bench: Bench) -> None:
    jobs = [bench.submit(priority=priority) for priority in (0, 10, -10, 10)]
    order = [bench.take().job_id for _ in jobs]
    assert order == [jobs[i].id for i in (1, 3, 0, 2)]


def test_tenants_share(bench: Bench) -> None:
    """A tenant with many jobs waits for one that runs nothing; equal shares go by age."""
    for _ in range(4):
        bench.submit("many")
    bench.submit("few")
    assert [bench.take().tenant for _ in range(5)] == ["many", "few", "many", "many", "many"]


def test_a_lease_that_ran_out_no_longer_counts_for_its_tenant(bench: Bench) -> None:
    bench.submit("a")
    bench.take()
    bench.submit("b")
    first = bench.submit("a")
    bench.clock.move(LEASE_S)
    assert bench.ledger.claim(worker(), first.id) is not None
    assert bench.take().tenant == "b"


def test_units_go_in_order_within_a_job(bench: Bench) -> None:
    bench.plan([unit(seq) for seq in range(5)])
    assert [bench.take().seq for _ in range(5)] == list(range(5))


def test_a_worker_can_ask_for_one_job(bench: Bench) -> None:
    bench.submit(priority=5)
    job = bench.submit()
    claim = bench.ledger.claim(worker(), job.id)
    assert claim is not None
    assert claim.job_id == job.id
    assert bench.ledger.claim(worker(), job.id) is None


def test_cleaning_up_goes_before_other_work(bench: Bench) -> None:
    job = bench.plan()
    bench.submit(priority=10)
    bench.ledger.cancel_job(job.id)
    assert bench.take().kind is UnitKind.CLEANUP


def test_a_lease_runs_out_unless_renewed(bench: Bench) -> None:
    bench.submit()
    first = bench.take()
    bench.clock.move(LEASE_S - 1)
    bench.ledger.heartbeat(first)
    bench.clock.move(LEASE_S - 1)
    assert bench.ledger.claim(worker("w2")) is None
    bench.clock.move(1)
    assert bench.ledger.has_work()
    second = bench.take(by=worker("w2"))
    assert (second.fence, second.attempt) == (first.fence + 1, 1)
    with pytest.raises(LeaseLost):
        bench.ledger.heartbeat(first)
    bench.ledger.heartbeat(second)


def test_a_late_heartbeat_keeps_what_nobody_took(bench: Bench) -> None:
    bench.submit()
    claim = bench.take()
    bench.clock.move(10 * LEASE_S)
    bench.ledger.heartbeat(claim)
    assert not bench.ledger.has_work()


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("loss", ["taken", "cancelled", "failed", "retried"])
def test_who_lost_the_lease_writes_nothing(bench: Bench, write: str, loss: str) -> None:
    job = bench.plan()
    claim = bench.take(UnitKind.QUANTIZE)
    match loss:
        case "taken":
            bench.clock.move(LEASE_S)
            assert bench.take(by=worker("w2")).seq == claim.seq
        case "cancelled":
            bench.ledger.cancel_job(job.id)
        case "failed" | "retried":
            bench.ledger.fail_job(bench.take(), OUTAGE)
    if loss == "retried":
        bench.ledger.retry_job(job.id)
        bench.take(UnitKind.PLAN)
    before = bench.ledger.get_job(job.id), bench.ledger.tensors(job.id)
    with pytest.raises(LeaseLost):
        WRITES[write](bench.ledger, claim)
    assert (bench.ledger.get_job(job.id), bench.ledger.tensors(job.id)) == before


def test_a_released_unit_waits(bench: Bench) -> None:
    job = bench.submit()
    bench.ledger.release(bench.take(), 30, OUTAGE)
    warning = bench.history(job.id)[-1]
    assert warning.type is EventType.WARNING
    assert (warning.data["code"], warning.data["retry_in_s"]) == ("storage_unavailable", 30)
    bench.clock.move(29)
    assert not bench.ledger.has_work()
    assert bench.ledger.claim(worker()) is None
    bench.clock.move(1)
    assert bench.ledger.has_work()
    assert bench.take().attempt == 1


def test_handing_back_in_peace_is_no_failed_try(bench: Bench) -> None:
    job = bench.submit()
    for _ in range(2 * MAX_ATTEMPTS):
        claim = bench.take()
        assert claim.attempt == 0
        bench.ledger.release(claim, 0)
    assert bench.ledger.get_job(job.id).state is JobState.RUNNING


def test_a_unit_that_never_finishes_fails_its_job(bench: Bench) -> None:
    job, next_job = bench.submit(), bench.submit(priority=-1)
    for _ in range(MAX_ATTEMPTS):
        assert bench.take().job_id == job.id
        bench.clock.move(LEASE_S)
    assert bench.ledger.has_work()
    claims = [bench.take(), bench.take()]
    assert {(c.job_id, c.kind) for c in claims} == {
        (job.id, UnitKind.CLEANUP),
        (next_job.id, UnitKind.PLAN),
    }
    failed = bench.ledger.get_job(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "attempts_exhausted"
    bench.ledger.retry_job(job.id)  # with all its attempts anew
    for _ in range(MAX_ATTEMPTS):
        bench.ledger.release(bench.take_of(job.id), 0, OUTAGE)
    assert bench.ledger.claim(worker(), job.id) is not None  # the cleanup
    error = bench.ledger.get_job(job.id).error
    assert error is not None
    assert "storage_unavailable" in error["message"]


def test_a_cleanup_nobody_can_do_does_not_hold_up_the_end(bench: Bench) -> None:
    job = bench.plan()
    bench.ledger.cancel_job(job.id)
    for _ in range(MAX_ATTEMPTS):
        bench.take(UnitKind.CLEANUP)
        bench.clock.move(LEASE_S)
    assert bench.ledger.claim(worker()) is None
    ended = bench.ledger.get_job(job.id)
    assert (ended.state, ended.error) == (JobState.CANCELLED, None)
    assert [warning["code"] for warning in ended.warnings] == ["attempts_exhausted"]


def test_a_cleanup_that_fails_does_not_hold_up_the_end(bench: Bench) -> None:
    job = bench.plan()
    bench.ledger.cancel_job(job.id)
    bench.ledger.fail_job(bench.take(UnitKind.CLEANUP), OUTAGE)
    assert bench.ledger.get_job(job.id).state is JobState.CANCELLED


def test_units_of_dead_processes_are_free_at_once(bench: Bench) -> None:
    bench.plan([unit(0), unit(1), unit(2)])
    dead = bench.take(by=worker(pid=7))
    alive = bench.take(by=worker(pid=8))
    elsewhere = bench.take(by=worker(host="h2", pid=7))
    assert bench.ledger.release_dead("h1", [8, 9]) == 1
    assert bench.ledger.release_dead("h1", [8, 9]) == 0
    bench.ledger.heartbeat(alive)
    bench.ledger.heartbeat(elsewhere)
    with pytest.raises(LeaseLost):
        bench.ledger.heartbeat(dead)
    assert bench.take().seq == dead.seq


def test_progress_counts_bytes_and_never_falls(bench: Bench) -> None:
    job = bench.plan([unit(0, source_bytes=100), unit(1, source_bytes=300)])
    claim, seen = bench.take(), []
    for nbytes in (0, 40, 1000, 10):
        bench.ledger.heartbeat(claim, nbytes)
        seen.append(bench.ledger.get_job(job.id).progress.bytes_done)
    bench.clock.move(LEASE_S)
    bench.ledger.heartbeat(bench.take(), 20)  # another one begins anew
    seen.append(bench.ledger.get_job(job.id).progress.bytes_done)
    assert seen == [0, 40, 100, 100, 100]
    bench.ledger.heartbeat(bench.take(), 150)
    progress = bench.ledger.get_job(job.id).progress
    assert (progress.bytes_done, progress.bytes_total, progress.percent) == (170, 400, 42.5)


def test_progress_is_told_at_most_once_a_second(bench: Bench) -> None:
    job = bench.plan([unit(0, source_bytes=10_000)])
    claim = bench.take()
    for step in range(1, 51):
        bench.clock.move(0.1)
        bench.ledger.heartbeat(claim, step)
    told = [e for e in bench.history(job.id) if e.type is EventType.PROGRESS]
    assert len(told) == 5
    assert [e.data["bytes_done"] for e in told] == [1, 11, 21, 31, 41]
    bench.clock.move(10)
    bench.ledger.heartbeat(claim, 50)
    assert len(bench.history(job.id)) == told[-1].seq  # nothing new, nothing said


def test_the_rate_is_of_the_time_at_work(bench: Bench) -> None:
    job = bench.plan([unit(0, source_bytes=1000)])
    claim = bench.take()
    assert bench.ledger.get_job(job.id).progress.bytes_per_s is None
    for step in range(1, 11):
        bench.clock.move(1)
        bench.ledger.heartbeat(claim, 20 * step)
    progress = bench.ledger.get_job(job.id).progress
    assert (progress.bytes_per_s, progress.eta_s) == (20.0, 40.0)
    bench.clock.move(3600)  # everyone was away: counts as one lease
    claim = bench.take()
    bench.ledger.heartbeat(claim, 500)
    assert bench.ledger.get_job(job.id).progress.bytes_per_s == 20.0
    bench.ledger.cancel_job(job.id)
    assert bench.ledger.get_job(job.id).progress.eta_s is None


def test_the_targets_rate_is_of_finished_parts(bench: Bench) -> None:
    """As many bytes as those took for each of the source's, at the source's rate."""
    job = bench.plan([unit(0, source_bytes=1000), unit(1, source_bytes=1000)])
    claim = bench.take()
    for step in range(1, 11):
        bench.clock.move(1)
        bench.ledger.heartbeat(claim, 100 * step)
    assert bench.ledger.get_job(job.id).progress.bytes_written_per_s is None
    bench.finish(claim)
    progress = bench.ledger.get_job(job.id).progress
    assert progress.bytes_per_s is not None
    assert progress.bytes_written > 0
    written = progress.bytes_per_s * progress.bytes_written / 1000
    assert progress.bytes_written_per_s == pytest.approx(written)


class TestNobodyStarves:
    def test_what_is_not_urgent_comes_before_what_arrives_later(self, bench: Bench) -> None:
        """After an hour it counts as normal, and is the oldest of those."""
        low = bench.submit(priority=0)
        bench.clock.move(AGING.total_seconds())
        normal = bench.submit(priority=1)
        urgent = [bench.submit(priority=2).id for _ in range(3)]
        assert [bench.take().job_id for _ in range(5)] == [*urgent, low.id, normal.id]

    def test_in_the_end_it_is_as_urgent_as_anything(self, bench: Bench) -> None:
        low = bench.submit(priority=0)
        bench.clock.move(2 * AGING.total_seconds())
        bench.submit(priority=2)
        assert bench.take().job_id == low.id

    def test_age_makes_nothing_more_urgent_than_urgent(self, bench: Bench) -> None:
        """Else the tenant with the oldest jobs would have all workers to itself."""
        for _ in range(3):
            bench.submit(tenant="patient", priority=2)
        bench.clock.move(10 * AGING.total_seconds())
        bench.submit(tenant="new", priority=2)
        assert [bench.take().tenant for _ in range(3)] == ["patient", "new", "patient"]

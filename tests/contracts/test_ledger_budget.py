"""The phases of a budget in the ledger: analysis, allocation, and what is left after a break."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import select

from service.adapters.sql.tables import jobs
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import CandidateError, Claim, JobRecord, JobState, Phase, UnitKind
from tests.contracts.ledgers import LEASE_S, RESOLVED, Bench, tensor, unit, worker

PLAN = [unit(0, 0, 1), unit(1, 1)]


def error(index: int, candidate: int = 0, value: float = 1.0) -> CandidateError:
    return CandidateError(0, index, candidate, value, 0.1, value, value, 0.5, 64)


def begin(bench: Bench) -> JobRecord:
    """A planned job with a budget and two units."""
    job = bench.submit()
    bench.ledger.plan_done(
        bench.take_of(job.id), RESOLVED, [tensor(0), tensor(1)], PLAN, analyze=True
    )
    return bench.ledger.get_job(job.id)


def analyze(bench: Bench, job: JobRecord) -> list[Claim]:
    claims = [bench.take(UnitKind.ANALYZE), bench.take(UnitKind.ANALYZE)]
    for claim in claims:
        indices = PLAN[claim.seq].tensors
        bench.ledger.analysis_done(claim, [error(i, c) for i in indices for c in (0, 1)])
    return claims


def test_a_budget_is_measured_allocated_and_then_quantized(bench: Bench) -> None:
    job = begin(bench)
    assert (job.state, job.phase) == (JobState.RUNNING, Phase.ANALYZING)
    assert (job.progress.bytes_total, job.progress.units_total) == (400, 4)
    analyze(bench, job)
    assert bench.ledger.get_job(job.id).phase is Phase.ALLOCATING
    found = bench.ledger.candidate_errors(job.id)
    assert [(e.tensor, e.candidate) for e in found] == [
        (0, 0), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1),
    ]  # fmt: skip
    assert bench.ledger.candidate_errors(job.id, output=1) == []

    claim = bench.take(UnitKind.ALLOCATE)
    rows = [tensor(0, bits=2), tensor(1, bits=8)]
    made = [{"choice": {"a": 0}}]
    bench.ledger.allocate_done(claim, made, rows)
    bench.ledger.allocate_done(claim, made, rows)  # its answer was lost
    after = bench.ledger.get_job(job.id)
    assert after.phase is Phase.QUANTIZING
    assert after.resolved["allocations"] == made
    assert after.progress.bytes_done == 200
    assert [row.bits for row in bench.ledger.tensors(job.id)] == [2, 8]
    done = bench.drain()
    kinds = [claim.kind for claim in done]
    assert kinds == [UnitKind.QUANTIZE, UnitKind.QUANTIZE, UnitKind.PUBLISH]
    assert done[0].resolved["allocations"] == made
    assert bench.ledger.get_job(job.id).state is JobState.SUCCEEDED
    phases = [e.data["phase"] for e in bench.history(job.id) if e.type.value == "state"]
    assert phases == [
        None, "PLANNING", "ANALYZING", "ALLOCATING", "QUANTIZING", "VERIFYING", None,
    ]  # fmt: skip


def test_allocating_waits_for_the_last_unit(bench: Bench) -> None:
    job = begin(bench)
    claim = bench.take(UnitKind.ANALYZE)
    other = bench.take(UnitKind.ANALYZE)
    bench.ledger.analysis_done(claim, [error(0)])
    bench.ledger.analysis_done(claim, [error(0)])
    assert bench.ledger.claim(worker("w9", "h9", 9)) is None
    assert bench.ledger.get_job(job.id).phase is Phase.ANALYZING
    bench.ledger.analysis_done(other, [error(1)])
    assert bench.take().kind is UnitKind.ALLOCATE


def test_a_lost_lease_writes_nothing(bench: Bench) -> None:
    job = begin(bench)
    late = bench.take(UnitKind.ANALYZE)
    bench.clock.move(LEASE_S + 1)
    again = bench.take(UnitKind.ANALYZE)
    assert again.seq == late.seq
    with pytest.raises(LeaseLost):
        bench.ledger.analysis_done(late, [error(0, value=9.0)])
    bench.ledger.analysis_done(again, [error(0, value=math.nan)])
    (found,) = bench.ledger.candidate_errors(job.id)
    assert math.isnan(found.sum_w2)


@pytest.mark.parametrize("kind", [UnitKind.ANALYZE, UnitKind.ALLOCATE])
def test_cancelling_ends_the_phase_and_a_retry_goes_on(bench: Bench, kind: UnitKind) -> None:
    job = begin(bench)
    if kind is UnitKind.ALLOCATE:
        analyze(bench, job)
    else:
        bench.ledger.analysis_done(bench.take(UnitKind.ANALYZE), [error(0), error(1)])
    held = bench.take(kind)
    bench.ledger.cancel_job(job.id)
    with pytest.raises(LeaseLost):
        bench.ledger.heartbeat(held)
    bench.ledger.cleanup_done(bench.take(UnitKind.CLEANUP))
    assert bench.ledger.get_job(job.id).state is JobState.CANCELLED
    bench.ledger.retry_job(job.id)
    claim = bench.take(UnitKind.PLAN)
    bench.ledger.plan_done(claim, RESOLVED, [tensor(0), tensor(1)], PLAN, analyze=True)
    left = bench.take()
    assert left.kind is kind  # what was measured stays measured
    if kind is UnitKind.ANALYZE:
        assert left.seq == 1


def test_an_allocation_that_may_not_be_taken_over_is_forgotten(bench: Bench) -> None:
    """Another version measures anew: the plan that it makes has none."""
    job = begin(bench)
    analyze(bench, job)
    bench.ledger.allocate_done(bench.take(UnitKind.ALLOCATE), [{"choice": {}}], [])
    bench.ledger.fail_job(bench.take(UnitKind.QUANTIZE), ArrowQuantError("internal", "broken"))
    bench.ledger.retry_job(job.id)
    while (claim := bench.take()).kind is UnitKind.CLEANUP:
        bench.ledger.cleanup_done(claim)
    resolved = RESOLVED | {"engine": {"arrowquant": "2"}}
    bench.ledger.plan_done(claim, resolved, [tensor(0), tensor(1)], PLAN, analyze=True)
    after = bench.ledger.get_job(job.id)
    assert "allocations" not in after.resolved
    assert after.phase is Phase.ANALYZING
    assert bench.ledger.candidate_errors(job.id) == []


def test_bytes_of_the_day_count_once(bench: Bench) -> None:
    """The source of a job with a budget is read twice; of the tenant's day it takes its size."""
    job = begin(bench)
    with bench.engine.connect() as connection:
        counted = connection.execute(
            select(jobs.c.counted_bytes).where(jobs.c.id == job.id)
        ).scalar()
    assert counted == 200

"""Any order of anything that can happen to jobs, against a model of what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.adapters.sql import migrate
from service.domain.errors import ArrowQuantError
from service.domain.job import TERMINAL, CandidateError, Claim, JobState, UnitKind, UnitPlan
from service.domain.succession import Adoption
from tests.contracts.ledgers import LEASE_S, part, unit, worker
from tests.machines.lives import Lives
from tests.machines.model import ENDED_BADLY, Wish, later

PLANS: tuple[list[UnitPlan], ...] = (
    [],
    [unit(0)],
    [unit(0), unit(1, 1, source_bytes=300)],
    [unit(0, 0), unit(1, 0, 1), unit(2, 1, source_bytes=0)],
)
BROKEN = ArrowQuantError("internal", "broken")
OTHER = ArrowQuantError("output_mismatch", "something else is there")
KEEP_S = 4.0
LATER_S = 5.0
PLACES = (None, "here/", "there/")


class JobLife(Lives):
    """Owners, workers and time, all of them arbitrary."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    @initialize(
        target=jobs, plan=st.sampled_from(PLANS[2:]), planned=st.booleans(), budget=st.booleans()
    )
    def begin(self, plan: list[UnitPlan], planned: bool, budget: bool) -> str:
        """Most of what is hard happens between units: begin where there are some."""
        job_id = self.create(Wish(plan, place="here/", budget=budget))
        assert job_id is not None
        if planned:
            claim = self._claim(job_id)
            assert claim is not None
            self.work(claim)
        return job_id

    # The owners.

    @rule(
        target=jobs,
        plan=st.sampled_from(PLANS),
        tenant=st.sampled_from("ab"),
        place=st.sampled_from(PLACES),
        if_exists=st.sampled_from(["fail", "replace", "resume"]),
        max_pending_s=st.sampled_from([None, 3]),
        budget=st.booleans(),
        priority=st.integers(0, 1),
    )
    def submit(self, priority: int, **wish: Any) -> object:
        job_id = self.create(Wish(**wish), priority)
        return multiple() if job_id is None else job_id

    @rule(target=jobs, job_id=jobs, if_exists=st.sampled_from(["replace", "resume"]))
    def follow(self, job_id: str, if_exists: str) -> object:
        """The same again, where that one is or was."""
        return self.followed(job_id, if_exists)

    def cancel(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.deleted:
            return
        ended = (JobState.SUCCEEDED, JobState.FAILED, JobState.EXPIRED)
        with self.refused("job_terminal", job.state in ended):
            self.ledger.cancel_job(job_id)
            if job.state in (JobState.QUEUED, JobState.RUNNING):
                job.cancel()

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.deleted or len(self.model) < 3:
            return
        with self.refused("job_active", job.state not in TERMINAL):
            self.ledger.delete_job(job_id, None, artifacts=True)
            job.delete()

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.deleted:
            return
        code = "job_terminal" if job.state is JobState.SUCCEEDED else "job_active"
        can = job.state in ENDED_BADLY
        if can and any(other.writes_to(job) for other in self.model.values()):
            code, can = "output_in_use", False
        with self.refused(code, not can):
            self.ledger.retry_job(job_id)
            job.retry(self.clock.now())

    # The workers.

    @rule(target=claims, times=st.integers(1, 3))
    def claim(self, times: int) -> object:
        """Several at a time, so that lives get somewhere."""
        return multiple(*[c for _ in range(times) if (c := self._claim(None)) is not None])

    @rule(target=claims, job_id=jobs)
    def claim_of(self, job_id: str) -> object:
        claim = self._claim(job_id)
        return multiple() if claim is None else claim

    def _claim(self, job_id: str | None) -> Claim | None:
        now = self.clock.now()
        found = {
            (job.id, key)
            for job in self.alive()
            if job_id in (None, job.id)
            for key in job.claimable(now)
        }
        claim = self.ledger.claim(worker(), job_id)
        if claim is None:
            assert not found
            return None
        assert (claim.job_id, (claim.kind, claim.seq)) in found
        job = self.model[claim.job_id]
        job.claimed(claim, later(now, LEASE_S))
        if claim.kind is UnitKind.QUANTIZE:
            assert claim.todo == {0: job.levels_of(claim.seq)}
        return claim

    @rule(claim=claims, nbytes=st.integers(0, 400))
    def heartbeat(self, claim: Claim, nbytes: int) -> None:
        with self.held(claim, "DONE") as job:
            self.ledger.heartbeat(claim, nbytes)
            if job.holds(claim):
                key = (claim.kind, claim.seq)
                job.units[key].free_from = later(self.clock.now(), LEASE_S)

    @rule(claim=claims)
    def end(self, claim: Claim) -> None:
        self.work(claim)

    def work(self, claim: Claim) -> None:
        """Finish a claim, whatever it is; a second time changes nothing."""
        ends: dict[UnitKind, Callable[[Claim], None]] = {
            UnitKind.PLAN: self._plan,
            UnitKind.ANALYZE: self._analyze,
            UnitKind.ALLOCATE: self._allocate,
            UnitKind.QUANTIZE: self._quantize,
            UnitKind.PUBLISH: self._publish,
            UnitKind.CLEANUP: self._clean,
        }
        ends[claim.kind](claim)

    def _plan(self, claim: Claim) -> None:
        job = self.model[claim.job_id]
        before = None
        if job.wish.if_exists == "resume" and not job.planned and not job.gone:
            before = self.predecessor(job)
            same = (job.plan, job.wish.budget)
            if before is not None and (before.plan, before.wish.budget) != same:
                with self.held(claim):
                    self.ledger.fail_job(claim, OTHER)
                    job.fail()
                return
        adoption = Adoption(before.id, self.ledger.parts(before.id)) if before else None
        with self.held(claim, "DONE"):
            self.bench.plan_done(
                claim,
                job.plan,
                adoption,
                analyze=job.wish.budget and not job.allocated and not (before and before.allocated),
                allocations=[{"choice": {}}] if before and before.allocated else None,
            )
            if job.holds(claim):
                job.plan_done(claim, before)

    def _analyze(self, claim: Claim) -> None:
        indices = self.model[claim.job_id].plan[claim.seq].tensors
        errors = [CandidateError(0, i, 0, 1.0, 0.1, 1.0, 1.0, 0.5, 64) for i in indices]
        with self.held(claim, "DONE") as job:
            self.ledger.analysis_done(claim, errors)
            if job.holds(claim):
                job.budget_done(claim)

    def _allocate(self, claim: Claim) -> None:
        measured = self.ledger.candidate_errors(claim.job_id) if not self._gone(claim) else []
        with self.held(claim, "DONE") as job:
            if job.holds(claim):
                held = [(unit.seq, i) for unit in job.plan for i in unit.tensors]
                assert len(measured) == len(held)
            self.ledger.allocate_done(claim, [{"choice": {}}], [])
            if job.holds(claim):
                job.budget_done(claim)

    def _gone(self, claim: Claim) -> bool:
        return self.model[claim.job_id].gone

    def _quantize(self, claim: Claim) -> None:
        with self.held(claim, "DONE") as job:
            done = self.ledger.unit_done(claim, part(claim.seq), claim.todo[0])
            if job.holds(claim):
                assert done is (claim.todo == {0: job.levels_of(claim.seq)})
                if done:
                    job.unit_done(claim)

    def _publish(self, claim: Claim) -> None:
        with self.held(claim, "DONE") as job:
            replaces = job.wish.if_exists == "replace"
            old = [(f"{job.wish.place}part-00007.arrow", "e")] if replaces else []
            self.ledger.publish_done(claim, {"claim": claim.fence}, old, KEEP_S)
            if job.holds(claim):
                job.published(claim, later(self.clock.now(), KEEP_S) if replaces else None)

    def _clean(self, claim: Claim) -> None:
        """Put off while somebody else writes there, as a worker does."""
        job = self.model[claim.job_id]
        removes = job.removes()
        if any(other.writes_to(job) for other in self.alive()):
            if removes or job.leftovers:
                self.give_back(claim, LATER_S, None)
                return
            removes = False
        removed = removes and job.state is not JobState.SUCCEEDED
        with self.held(claim, "DONE"):
            self.ledger.cleanup_done(claim, removed=removed)
            job.leftovers = False
            if job.holds(claim):
                job.cleaned(claim, removed=removed)

    @rule(claim=claims, data=st.data(), keep=st.booleans())
    def escalate(self, claim: Claim, data: st.DataObject, keep: bool) -> None:
        if claim.kind is not UnitKind.QUANTIZE:
            return
        job = self.model[claim.job_id]
        index = data.draw(st.sampled_from(job.plan[claim.seq].tensors))
        to_bits = 0 if keep else 8
        with self.held(claim):
            moved = self.ledger.escalate(claim, index, 4, to_bits, {"bits": 4})
            assert moved is (index not in job.levels)
            if moved:
                job.escalate(claim, index, to_bits)
            assert self.ledger.unit_todo(claim) == {0: job.levels_of(claim.seq)}

    @rule(claim=claims, data=st.data())
    def reopen(self, claim: Claim, data: st.DataObject) -> None:
        job = self.model[claim.job_id]
        if claim.kind is not UnitKind.PUBLISH or not job.plan:
            return
        seq = data.draw(st.integers(0, len(job.plan) - 1))
        with self.held(claim, "HELD"):
            self.ledger.reopen_unit(claim, seq, "missing")
            job.reopen(claim, seq)

    @rule(claim=claims, delay=st.sampled_from([0.0, 5.0]), failed=st.booleans())
    def release(self, claim: Claim, delay: float, failed: bool) -> None:
        self.give_back(claim, delay, BROKEN if failed else None)

    def give_back(self, claim: Claim, delay: float, error: ArrowQuantError | None) -> None:
        with self.held(claim) as job:
            self.ledger.release(claim, delay, error)
            job.released(claim, later(self.clock.now(), delay))

    def fail(self, claim: Claim) -> None:
        with self.held(claim) as job:
            self.ledger.fail_job(claim, BROKEN)
            if claim.kind is UnitKind.CLEANUP:
                job.cleaned(claim)
            else:
                job.fail()

    @rule(
        target=jobs,
        claim=claims,
        trouble=st.sampled_from(["cancel", "fail", "reboot"]),
        then=st.sampled_from(["", "retry", "replace", "resume"]),
    )
    def trouble(self, claim: Claim, trouble: str, then: str) -> object:
        """One rule for all that ends a life, or none would last; and often a new one."""
        match trouble:
            case "cancel":
                self.cancel(claim.job_id)
            case "fail":
                self.fail(claim)
            case "reboot":
                self.reboot()
        if not then:
            return multiple()
        if (cleanup := self._claim(claim.job_id)) is not None:
            self.work(cleanup)
        if then == "retry":
            self.retry(claim.job_id)
            return multiple()
        return self.followed(claim.job_id, then)

    def followed(self, job_id: str, if_exists: str) -> object:
        """Submit the same again to the same place, and begin it."""
        new = self.create(replace(self.model[job_id].wish, if_exists=if_exists))
        if new is None:
            return multiple()
        if (plan := self._claim(new)) is not None:
            self.work(plan)
        return new

    @rule(job_id=jobs)
    def cancel_any(self, job_id: str) -> None:
        if self.model[job_id].state is not JobState.RUNNING:
            self.cancel(job_id)

    @rule(times=st.integers(1, 4))
    def toil(self, times: int) -> None:
        """A worker that does as it should."""
        for _ in range(times):
            if (claim := self._claim(None)) is not None:
                self.work(claim)

    @rule(seconds=st.sampled_from([0.5, 4.0, LEASE_S]))
    def wait(self, seconds: float) -> None:
        """Long enough, and every worker that did not renew its lease has crashed."""
        self.clock.move(seconds)

    @rule()
    def sweep(self) -> None:
        """What waited too long expires, and what was deleted goes when it is tidied up."""
        overdue = [job for job in self.alive() if job.overdue(self.clock.now())]
        erased = [job for job in self.alive() if job.erasable()]
        assert self.ledger.sweep() == len(overdue) + len(erased)
        for job in overdue:
            job.expire()
        for job in erased:
            job.gone = True

    def reboot(self) -> None:
        """The workers' host comes back and knows that none of its processes lives."""
        leased = [u for job in self.alive() for u in job.units.values()]
        leased = [u for u in leased if u.state == "LEASED"]
        assert self.ledger.release_dead("h1", []) == len(leased)
        for one in leased:
            one.become("FREE")


def test_job_life(tmp_path: Path) -> None:
    JobLife.template = tmp_path / "empty.db"
    migrate(f"sqlite:///{JobLife.template}")
    # A third of what a plain property gets: each of these is a whole history of jobs.
    examples = settings().max_examples // 3
    run_state_machine_as_test(
        JobLife, settings=settings(max_examples=examples, stateful_step_count=50, deadline=None)
    )

"""Any order of anything that can happen to jobs, against a model of what may come of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from service.adapters.sql import SqlLedger, make_engine, migrate
from service.adapters.sql.tables import units
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import TERMINAL, Claim, EventType, JobState, Phase, UnitKind, UnitPlan
from tests.contracts.ledgers import LEASE_S, Bench, HandClock, part, unit, worker
from tests.machines.model import PUBLISH, ModelJob, later

PLANS: tuple[list[UnitPlan], ...] = (
    [],
    [unit(0)],
    [unit(0), unit(1, 1, source_bytes=300)],
    [unit(0, 0), unit(1, 0, 1), unit(2, 1, source_bytes=0)],
)
BROKEN = ArrowQuantError("internal", "broken")


class JobLife(RuleBasedStateMachine):
    """Owners, workers and time, all of them arbitrary."""

    template: Path

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = shutil.copy(self.template, Path(self.folder.name) / "ledger.db")
        self.clock = HandClock()
        url = f"sqlite:///{path}"
        self.engine = make_engine(url)
        self.bench = Bench(self.engine, url, self.clock)
        self.ledger = self.bench.ledger = SqlLedger(self.engine, self.clock, LEASE_S, 10_000)
        self.model: dict[str, ModelJob] = {}
        self.progress: dict[str, tuple[int, int]] = {}

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @initialize(target=jobs, plan=st.sampled_from(PLANS[2:]), planned=st.booleans())
    def begin(self, plan: list[UnitPlan], planned: bool) -> str:
        """Most of what is hard happens between units: begin where there are some."""
        job_id = self.create(plan, "a", 0)
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
        priority=st.integers(0, 1),
    )
    def submit(self, plan: list[UnitPlan], tenant: str, priority: int) -> str:
        return self.create(plan, tenant, priority)

    def create(self, plan: list[UnitPlan], tenant: str, priority: int) -> str:
        job = self.bench.submit(tenant, priority)
        self.model[job.id] = ModelJob(job.id, plan)
        return job.id

    def cancel(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.deleted:
            return
        ended = (JobState.SUCCEEDED, JobState.FAILED)
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
        can = job.state in (JobState.FAILED, JobState.CANCELLED)
        with self.refused(code, not can):
            self.ledger.retry_job(job_id)
            job.retry()

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
            for job in self.model.values()
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
            UnitKind.QUANTIZE: self._quantize,
            UnitKind.PUBLISH: self._publish,
            UnitKind.CLEANUP: self._clean,
        }
        ends[claim.kind](claim)

    def _plan(self, claim: Claim) -> None:
        with self.held(claim, "DONE") as job:
            self.bench.plan_done(claim, job.plan)
            if job.holds(claim):
                job.plan_done(claim)

    def _quantize(self, claim: Claim) -> None:
        with self.held(claim, "DONE") as job:
            done = self.ledger.unit_done(claim, part(claim.seq), claim.todo[0])
            if job.holds(claim):
                assert done is (claim.todo == {0: job.levels_of(claim.seq)})
                if done:
                    job.unit_done(claim)

    def _publish(self, claim: Claim) -> None:
        with self.held(claim, "DONE") as job:
            self.ledger.publish_done(claim, {"claim": claim.fence})
            if job.holds(claim):
                job.units[PUBLISH].become("DONE", claim.fence)
                job.move(JobState.SUCCEEDED)

    def _clean(self, claim: Claim) -> None:
        with self.held(claim, "DONE") as job:
            self.ledger.cleanup_done(claim)
            if job.holds(claim):
                job.cleaned(claim)

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
        with self.held(claim) as job:
            self.ledger.release(claim, delay, BROKEN if failed else None)
            job.released(claim, later(self.clock.now(), delay))

    def fail(self, claim: Claim) -> None:
        with self.held(claim) as job:
            self.ledger.fail_job(claim, BROKEN)
            if claim.kind is UnitKind.CLEANUP:
                job.cleaned(claim)
            else:
                job.fail()

    @rule(claim=claims, trouble=st.sampled_from(["cancel", "fail", "reboot"]), again=st.booleans())
    def trouble(self, claim: Claim, trouble: str, again: bool) -> None:
        """One rule for all that ends a life, or none would last; and often a new one."""
        match trouble:
            case "cancel":
                self.cancel(claim.job_id)
            case "fail":
                self.fail(claim)
            case "reboot":
                self.reboot()
        if again:
            if (cleanup := self._claim(claim.job_id)) is not None:
                self.work(cleanup)
            self.retry(claim.job_id)

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

    def reboot(self) -> None:
        """The workers' host comes back and knows that none of its processes lives."""
        leased = [u for job in self.model.values() for u in job.units.values()]
        leased = [u for u in leased if u.state == "LEASED"]
        assert self.ledger.release_dead("h1", []) == len(leased)
        for one in leased:
            one.become("FREE")

    # What must be so at any time.

    @invariant()
    def work_is_announced(self) -> None:
        now = self.clock.now()
        assert self.ledger.has_work() == any(job.claimable(now) for job in self.model.values())

    @invariant()
    def jobs_are_as_the_model_says(self) -> None:
        for job in self.model.values():
            record = self.ledger.get_job(job.id)
            assert (record.state, record.phase, record.attempt) == (
                job.state, job.phase, job.attempt,
            )  # fmt: skip
            assert record.progress.units_done == len(job.done())
            assert [p.seq for p in self.ledger.parts(job.id)] == sorted(job.done())
            before = self.progress.get(job.id, (0, 0))
            now = (record.attempt, record.progress.bytes_done)
            assert now >= before
            assert now[1] <= record.progress.bytes_total
            self.progress[job.id] = now

    @invariant()
    def leases_are_as_the_model_says(self) -> None:
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(units.c.job_id, units.c.kind, units.c.seq, units.c.state, units.c.fence)
            ).all()
        for job_id, kind, seq, state, fence in rows:
            job = self.model[job_id]
            model = job.units[UnitKind(kind), seq]
            assert state == model.state
            assert state != "LEASED" or fence == model.holder
            if (kind, state) in (("publish", "FREE"), ("publish", "LEASED")):
                assert job.planned
                assert len(job.done()) == len(job.plan)

    @invariant()
    def histories_have_no_gaps(self) -> None:
        for job in self.model.values():
            told = [
                (JobState(e.data["state"]), Phase(e.data["phase"]) if e.data["phase"] else None)
                for e in self.bench.history(job.id)
                if e.type is EventType.STATE
            ]
            assert told == job.states

    @contextmanager
    def held(self, claim: Claim, *also: str) -> Iterator[ModelJob]:
        """The call inside goes through if the claim holds, and is LeaseLost if not."""
        job = self.model[claim.job_id]
        if job.holds(claim, *also):
            yield job
        else:
            with pytest.raises(LeaseLost):
                yield job

    @contextmanager
    def refused(self, code: str, expected: bool) -> Iterator[None]:
        if expected:
            with pytest.raises(ArrowQuantError, match=f"^{code}:"):
                yield
        else:
            yield


def test_job_life(tmp_path: Path) -> None:
    JobLife.template = tmp_path / "empty.db"
    migrate(f"sqlite:///{JobLife.template}")
    # Half of what a plain property gets: each of these is a whole history of jobs.
    examples = settings().max_examples // 2
    run_state_machine_as_test(
        JobLife, settings=settings(max_examples=examples, stateful_step_count=50, deadline=None)
    )

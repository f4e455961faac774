"""What holds for all jobs of a ledger at any time, whatever happens to them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import select

from service.adapters.sql import SqlLedger, make_engine
from service.adapters.sql.tables import units
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import TERMINAL, Claim, EventType, JobState, Phase, UnitKind
from tests.contracts.ledgers import LEASE_S, Bench, HandClock
from tests.machines.model import ModelJob, Wish


class Lives(RuleBasedStateMachine):
    """A ledger and its model, and the comparison of the two."""

    template: Path

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

    def alive(self) -> list[ModelJob]:
        return [job for job in self.model.values() if not job.gone]

    def create(self, wish: Wish, priority: int = 0) -> str | None:
        if wish.if_exists != "fail" and wish.place is None:
            wish = replace(wish, if_exists="fail")
        place = {"output": {"connection": "shared", "prefix": wish.place}} if wish.place else {}
        new = ModelJob("", wish)
        with self.refused("output_in_use", any(job.writes_to(new) for job in self.model.values())):
            job = self.bench.submit(
                wish.tenant, priority, request=place, max_pending_s=wish.max_pending_s
            )
            new.id = job.id
            new.wait_from(self.clock.now())
            self.model[job.id] = new
            return new.id
        return None

    def predecessor(self, job: ModelJob) -> ModelJob | None:
        """The latest of those that did not end well at the same place."""
        found = self.ledger.predecessor(job.id)
        records = [self.ledger.get_job(o.id) for o in self.model.values() if o.precedes(job)]
        if found is None:
            assert not records
            return None
        assert found.id in {record.id for record in records}
        assert found.update_time == max(record.update_time for record in records)
        return self.model[found.id]

    # What must be so at any time.

    @invariant()
    def work_is_announced(self) -> None:
        now = self.clock.now()
        assert self.ledger.has_work() == any(job.claimable(now) for job in self.alive())

    @invariant()
    def jobs_are_as_the_model_says(self) -> None:
        for job in self.alive():
            record = self.ledger.get_job(job.id)
            assert (record.state, record.phase, record.attempt) == (
                job.state, job.phase, job.attempt,
            )  # fmt: skip
            assert bool(record.leftovers) is job.leftovers
            assert record.progress.units_done == job.read()
            assert [p.seq for p in self.ledger.parts(job.id)] == sorted(job.done())
            before = self.progress.get(job.id, (0, 0))
            now = (record.attempt, record.progress.bytes_done)
            assert now >= before
            assert now[1] <= record.progress.bytes_total
            self.progress[job.id] = now

    @invariant()
    def places_have_one_writer(self) -> None:
        for job in self.alive():
            writers = [other for other in self.alive() if other.writes_to(job)]
            assert len(writers) <= (job.state in TERMINAL)
            assert self.ledger.place_busy(job.id) is bool(writers)

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
        for job in self.alive():
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
        if job.gone:
            with self.refused("not_found", True):
                yield job
        elif job.holds(claim, *also):
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

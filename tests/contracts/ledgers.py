"""A ledger on a database, a clock to move, and short names for what jobs are made of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from service.adapters.sql import SqlLedger
from service.domain.ids import new_id
from service.domain.job import (
    Claim,
    Event,
    JobRecord,
    PartRow,
    PieceError,
    TensorRow,
    TensorState,
    UnitKind,
    UnitPlan,
    Worker,
)
from service.domain.ports import Ledger, NewJob
from service.domain.succession import Adoption

LEASE_S = 15.0
MAX_ATTEMPTS = 3
KEEP_DAYS = {"tidy": 7}
RESOLVED = {"recipe": {"bits": 4}, "objects": [{"key": "a.safetensors", "etag": "e1"}]}


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def move(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def worker(name: str = "w1", host: str = "h1", pid: int = 1) -> Worker:
    return Worker(f"{host}:{pid}:{name}", host, pid)


def tensor(index: int, state: TensorState = TensorState.PENDING, **changes: Any) -> TensorRow:
    values: dict[str, Any] = {
        "name": f"blocks.{index}.weight",
        "dtype": "F32",
        "shape": [8, 16],
        "role": "attention",
        "codec": "affine_u",
        "bits": 4,
        "group_size": 16,
        "reason": "requested width",
        "source_bytes": 512,
        "stored_bytes": 96,
    }
    return TensorRow(index=index, state=state, **(values | changes))


def unit(seq: int, *tensors: int, source_bytes: int = 100) -> UnitPlan:
    return UnitPlan(seq, source_bytes, tensors or (seq,))


def part(seq: int, nbytes: int = 30) -> PartRow:
    return PartRow(seq, f"part-{seq:05d}.arrow", nbytes, "ab" * 32, f"etag-{seq}", 1)


def piece(index: int, bits: int = 4, value: float = 1.0) -> PieceError:
    return PieceError(index, bits, value, 0.1 * value, value, value, 0.5, 64, 40)


class Bench:
    """A ledger under test and the steps that most tests take."""

    def __init__(self, engine: Engine, url: str, clock: HandClock) -> None:
        self.engine, self.url, self.clock = engine, url, clock
        self.ledger: Ledger = SqlLedger(
            engine, clock, LEASE_S, MAX_ATTEMPTS, lambda tenant: KEEP_DAYS.get(tenant)
        )

    def submit(self, tenant: str = "acme", priority: int = 0, **changes: Any) -> JobRecord:
        self.clock.move(0.001)  # so that identifiers and times are in order of submission
        values: dict[str, Any] = {
            "name": "",
            "labels": {},
            "request": {"source": {"connection": "lab", "prefix": "m/"}},
            "resolved": {"recipe": {"bits": 4}},
            "max_runtime_s": None,
        }
        job_id = new_id("job", int(self.clock.now().timestamp() * 1000))
        new = NewJob(id=job_id, tenant=tenant, priority=priority, **(values | changes))
        return self.ledger.create_job(new)

    def take(self, kind: UnitKind | None = None, by: Worker | None = None) -> Claim:
        claim = self.ledger.claim(by or worker())
        assert claim is not None
        assert kind in (None, claim.kind)
        return claim

    def take_of(self, job_id: str) -> Claim:
        claim = self.ledger.claim(worker(), job_id)
        assert claim is not None
        return claim

    def plan(self, units: Iterable[UnitPlan] = (), **changes: Any) -> JobRecord:
        """Submit a job and plan it."""
        job = self.submit(**changes)
        plan = list(units) or [unit(0), unit(1)]
        claim = self.take_of(job.id)
        assert claim.kind is UnitKind.PLAN
        self.plan_done(claim, plan)
        return job

    def plan_done(
        self,
        claim: Claim,
        plan: list[UnitPlan],
        adoption: Adoption | None = None,
        *,
        analyze: bool = False,
        allocations: list[Any] | None = None,
    ) -> None:
        rows = [tensor(i) for i in sorted({index for some in plan for index in some.tensors})]
        known = claim.resolved.get("allocations") or allocations
        resolved = RESOLVED | ({"allocations": known} if known else {})
        self.ledger.plan_done(claim, resolved, rows, plan, adoption=adoption, analyze=analyze)

    def finish(self, claim: Claim) -> None:
        """End a claim of any kind well."""
        match claim.kind:
            case UnitKind.PLAN:
                self.plan_done(claim, [unit(0), unit(1)])
            case UnitKind.QUANTIZE:
                assert self.ledger.unit_done(claim, part(claim.seq), claim.todo[0])
            case UnitKind.PUBLISH:
                self.ledger.publish_done(claim, {"parts": 2})
            case UnitKind.CLEANUP:
                self.ledger.cleanup_done(claim)

    def drain(self) -> list[Claim]:
        """Claim and finish until nothing is left."""
        done = []
        while (claim := self.ledger.claim(worker())) is not None:
            self.finish(claim)
            done.append(claim)
        return done

    def history(self, job_id: str) -> list[Event]:
        """All events, which have no gaps and are as many as the job says."""
        events = self.ledger.events(job_id, 0, 100_000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert self.ledger.event_heads([job_id]) == {job_id: len(events)}
        assert [event.time for event in events] == sorted(event.time for event in events)
        return events

"""A job's life in memory: small enough to be seen to be right."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.domain.job import TERMINAL, TRANSITIONS, Claim, JobState, Phase, UnitKind, UnitPlan

Key = tuple[UnitKind, int]

PLAN: Key = (UnitKind.PLAN, 0)
PUBLISH: Key = (UnitKind.PUBLISH, 0)
CLEANUP: Key = (UnitKind.CLEANUP, 0)
ALLOCATE: Key = (UnitKind.ALLOCATE, 0)
ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)


@dataclass(frozen=True)
class Wish:
    """What a job was submitted with."""

    plan: list[UnitPlan]
    tenant: str = "a"
    place: str | None = None
    if_exists: str = "fail"
    max_pending_s: int | None = None
    budget: bool = False


@dataclass
class ModelUnit:
    """`holder` is the fence of the claim that may still speak for the unit."""

    state: str = "HELD"
    holder: int | None = None
    free_from: datetime | None = None  # FREE: not before; LEASED: the lease's end
    levels: dict[int, int] = field(default_factory=dict)

    def become(self, state: str, holder: int | None = None, when: datetime | None = None) -> None:
        self.state, self.holder, self.free_from = state, holder, when


@dataclass
class ModelJob:
    """A job and its units."""

    id: str
    wish: Wish
    deadline: datetime | None = None
    state: JobState = JobState.QUEUED
    phase: Phase | None = None
    attempt: int = 1
    planned: bool = False
    deleted: bool = False
    gone: bool = False
    leftovers: bool = False
    units: dict[Key, ModelUnit] = field(default_factory=dict)
    levels: dict[int, int] = field(default_factory=dict)
    states: list[tuple[JobState, Phase | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.units = {key: ModelUnit() for key in (PLAN, PUBLISH, CLEANUP)}
        self.units[PLAN].become("FREE")
        self.states.append((self.state, self.phase))

    @property
    def plan(self) -> list[UnitPlan]:
        return self.wish.plan

    # What is so.

    def parts(self) -> dict[int, ModelUnit]:
        return {seq: u for (kind, seq), u in self.units.items() if kind is UnitKind.QUANTIZE}

    def done(self) -> list[int]:
        return [seq for seq, unit in self.parts().items() if unit.state == "DONE"]

    def of(self, kind: UnitKind) -> list[ModelUnit]:
        return [unit for (its, _), unit in self.units.items() if its is kind]

    def read(self) -> int:
        """Units that have been read, in either phase."""
        return len(self.done()) + [u.state for u in self.of(UnitKind.ANALYZE)].count("DONE")

    @property
    def allocated(self) -> bool:
        return (
            self.wish.budget
            and self.planned
            and all(unit.state == "DONE" for unit in self.of(UnitKind.ALLOCATE))
        )

    def claimable(self, now: datetime) -> set[Key]:
        return {
            key
            for key, unit in self.units.items()
            if unit.state in ("FREE", "LEASED")
            and (unit.free_from is None or unit.free_from <= now)
        }

    def holds(self, claim: Claim, *also: str) -> bool:
        """Whether a write under this claim must go through."""
        unit = self.units[claim.kind, claim.seq]
        return unit.holder == claim.fence and unit.state in ("LEASED", *also)

    def writes_to(self, other: ModelJob) -> bool:
        """Whether it holds the place of another one."""
        mine = self.wish.place is not None and self.wish.place == other.wish.place
        return mine and self is not other and self.state not in TERMINAL

    def precedes(self, other: ModelJob) -> bool:
        """Whether another one may go on where it stopped."""
        same = (self.wish.tenant, self.wish.place) == (other.wish.tenant, other.wish.place)
        left = self.state in ENDED_BADLY and self.planned and not self.deleted and not self.gone
        return same and left and self is not other

    def overdue(self, now: datetime) -> bool:
        late = self.deadline is not None and self.deadline <= now
        return late and self.state is JobState.QUEUED

    def removes(self) -> bool:
        """Whether its CLEANUP takes the parts away."""
        replaces = self.wish.if_exists == "replace" and self.state in ENDED_BADLY
        return self.state is JobState.CANCELLING or self.deleted or replaces

    def erasable(self) -> bool:
        return self.deleted and self.units[CLEANUP].state not in ("FREE", "LEASED")

    def levels_of(self, seq: int) -> dict[int, int]:
        tensors = next(unit.tensors for unit in self.plan if unit.seq == seq)
        return {tensor: bits for tensor, bits in self.levels.items() if tensor in tensors}

    # What happens.

    def move(self, state: JobState, phase: Phase | None = None) -> None:
        assert state in TRANSITIONS[self.state]
        self.state, self.phase = state, phase
        self.states.append((state, phase))

    def enter(self, phase: Phase) -> None:
        if self.phase is not phase:
            self.phase = phase
            self.states.append((self.state, phase))

    def claimed(self, claim: Claim, until: datetime) -> None:
        self.units[claim.kind, claim.seq].become("LEASED", claim.fence, until)
        if self.state is JobState.QUEUED:
            self.move(JobState.RUNNING, Phase.PLANNING)
        elif claim.kind is UnitKind.PUBLISH and self.phase is Phase.QUANTIZING:
            self.enter(Phase.VERIFYING)

    def plan_done(self, claim: Claim, before: ModelJob | None = None) -> None:
        """With all that `before` has finished, if it goes on from there."""
        self.units[PLAN].become("DONE", claim.fence)
        analyze = self.wish.budget and not self.planned and not (before and before.allocated)
        for planned in self.plan:
            self.units.setdefault((UnitKind.QUANTIZE, planned.seq), ModelUnit())
            if analyze:
                self.units[UnitKind.ANALYZE, planned.seq] = ModelUnit()
        if analyze:
            self.units[ALLOCATE] = ModelUnit()
        for seq in before.done() if before else ():
            self.units[UnitKind.QUANTIZE, seq].become("DONE")
        self.levels |= before.levels if before else {}
        self.planned = True
        self.advance()

    def advance(self) -> None:
        """The next kind of work: what a budget needs first."""
        for kind, phase in (
            (UnitKind.ANALYZE, Phase.ANALYZING), (UnitKind.ALLOCATE, Phase.ALLOCATING),
            (UnitKind.QUANTIZE, Phase.QUANTIZING),
        ):  # fmt: skip
            mine = self.of(kind)
            if kind is UnitKind.QUANTIZE or any(unit.state != "DONE" for unit in mine):
                for unit in mine:
                    if unit.state == "HELD":
                        unit.become("FREE")
                self.enter(phase)
                break
        if self.phase is Phase.QUANTIZING:
            self.settle()

    def budget_done(self, claim: Claim) -> None:
        """The end of an ANALYZE or ALLOCATE unit."""
        self.units[claim.kind, claim.seq].become("DONE", claim.fence)
        self.advance()

    def unit_done(self, claim: Claim) -> None:
        self.units[UnitKind.QUANTIZE, claim.seq].become("DONE", claim.fence)
        self.settle()

    def settle(self) -> None:
        if len(self.done()) == len(self.plan):
            self.units[PUBLISH].become("FREE")

    def escalate(self, claim: Claim, tensor: int, bits: int) -> None:
        self.levels[tensor] = bits
        for planned in self.plan:
            unit = self.units[UnitKind.QUANTIZE, planned.seq]
            if tensor in planned.tensors and planned.seq != claim.seq and unit.state == "DONE":
                unit.become("FREE")

    def reopen(self, claim: Claim, seq: int) -> None:
        if self.units[UnitKind.QUANTIZE, seq].state == "DONE":
            self.units[UnitKind.QUANTIZE, seq].become("FREE")
            self.units[PUBLISH].become("HELD", claim.fence)
            self.enter(Phase.QUANTIZING)

    def hold(self) -> None:
        for unit in self.units.values():
            if unit.state != "DONE":
                unit.become("HELD")

    def cancel(self) -> None:
        self.hold()
        if self.state is JobState.RUNNING:
            self.units[CLEANUP].become("FREE")
            self.move(JobState.CANCELLING)
        else:
            if self.attempt > 1:
                self.units[CLEANUP].become("FREE")
            self.move(JobState.CANCELLED)

    def expire(self) -> None:
        self.hold()
        if self.attempt > 1:
            self.units[CLEANUP].become("FREE")
        self.move(JobState.EXPIRED)

    def fail(self) -> None:
        self.hold()
        self.units[CLEANUP].become("FREE")
        self.move(JobState.FAILED)

    def delete(self) -> None:
        """Marked, with its artifact to be removed; its rows stay until that is done."""
        self.hold()
        self.units[CLEANUP].become("FREE")
        self.deleted = True

    def published(self, claim: Claim, keep: datetime | None) -> None:
        """What was replaced, if anything was, is there until `keep`."""
        self.units[PUBLISH].become("DONE", claim.fence)
        self.move(JobState.SUCCEEDED)
        if keep is not None:
            self.leftovers = True
            self.units[CLEANUP].become("FREE", None, keep)

    def cleaned(self, claim: Claim, *, removed: bool = False) -> None:
        self.units[CLEANUP].become("DONE", claim.fence)
        for unit in self.parts().values() if removed else ():
            unit.become("HELD")
        if self.state is JobState.CANCELLING:
            self.move(JobState.CANCELLED)

    def retry(self, now: datetime) -> None:
        self.hold()
        self.wait_from(now)
        self.units[CLEANUP].become("HELD")
        self.units[PLAN].become("FREE")
        self.attempt += 1
        self.move(JobState.QUEUED)

    def wait_from(self, now: datetime) -> None:
        longest = self.wish.max_pending_s
        self.deadline = None if longest is None else later(now, longest)

    def released(self, claim: Claim, until: datetime) -> None:
        self.units[claim.kind, claim.seq].become("FREE", None, until)


def later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)

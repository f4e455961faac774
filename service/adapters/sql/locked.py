"""A job whose row is locked: the one place where states change and events are numbered.

Every writer locks the job's row before it looks at anything of the job. So decisions such as "was
this the last unit" are made one after the other, events have no gaps, and nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    Update,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from service.adapters.sql.conditions import conditions_of
from service.adapters.sql.engine import Database
from service.adapters.sql.outbox import announce, anyone_listens
from service.adapters.sql.records import to_job
from service.adapters.sql.tables import UnitState, events, jobs, places, units
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import (
    TERMINAL,
    TRANSITIONS,
    Claim,
    EventType,
    JobRecord,
    JobState,
    Phase,
    UnitKind,
)
from service.domain.ports import Clock
from service.domain.quotas import NO_LIMITS, Quota
from service.domain.webhooks import OF_STATE, HookEvent, shown_job

# Job states in which a holder of a unit may write.
WORKING: dict[UnitKind, frozenset[JobState]] = {
    UnitKind.PLAN: frozenset({JobState.RUNNING}),
    UnitKind.ANALYZE: frozenset({JobState.RUNNING}),
    UnitKind.ALLOCATE: frozenset({JobState.RUNNING}),
    UnitKind.QUANTIZE: frozenset({JobState.RUNNING}),
    UnitKind.PUBLISH: frozenset({JobState.RUNNING}),
    # CANCELLED: a retried job may be cancelled again before anyone cleaned up.
    # And whatever has ended may be deleted, or leave parts behind that it replaced.
    UnitKind.CLEANUP: frozenset({JobState.CANCELLING, *TERMINAL}),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every job unless it says otherwise.

    max_attempts  how often a unit may be begun before its job fails
    keep_days     of a tenant: for how long its jobs are kept after their end; None: until deleted
    quota         of tenants that have none of their own
    """

    max_attempts: int
    keep_days: Callable[[str], int | None]
    quota: Quota


_MANY = 500  # values in one IN list


class LockedJob:
    """The row of a job inside a transaction that holds it. `save` writes what was changed."""

    def __init__(
        self, connection: Connection, row: RowMapping, now: datetime, rules: Rules
    ) -> None:
        self.connection, self.now, self._rules = connection, now, rules
        self.id: str = row["id"]
        self._row = dict(row)
        self._state_before = row["state"]
        self._changes: dict[str, Any] = {}
        self._events: list[dict[str, Any]] = []
        self._news: list[tuple[HookEvent, int, dict[str, Any]]] = []

    def __getitem__(self, column: str) -> Any:
        return self._row[column]

    @property
    def row(self) -> dict[str, Any]:
        return self._row

    @property
    def state(self) -> JobState:
        return JobState(self._row["state"])

    def set(self, **values: Any) -> None:
        changed = {name: value for name, value in values.items() if self._row[name] != value}
        self._row |= changed
        self._changes |= changed

    def emit(self, kind: EventType, data: dict[str, Any]) -> None:
        """Append an event; its number follows the job's last."""
        seq = self._row["event_seq"] + 1
        self.set(event_seq=seq)
        self._events.append(
            {"job_id": self.id, "seq": seq, "type": kind.value, "time": self.now, "data": data}
        )

    def move(self, state: JobState, phase: Phase | None = None, **values: Any) -> None:
        """Change the state, as TRANSITIONS allows, with its events."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"job {self.id}: no way from {self.state} to {state}")
        if state in TERMINAL:
            values["end_time"] = self.now
            values["expire_time"] = self._expires()
        self.set(state=state.value, phase=phase.value if phase else None, **values)
        self._emit_state()
        if (event := OF_STATE.get(state)) is not None:
            self._news.append((event, self["event_seq"], shown_job(self._row)))
        if state in TERMINAL:
            self.emit(EventType.DONE, {"state": state.value, "attempt": self["attempt"]})

    def _expires(self) -> datetime | None:
        asked = self["retain_days"]
        days = asked if asked is not None else self._rules.keep_days(self["tenant"])
        return None if days is None else self.now + timedelta(days=days)

    def enter(self, phase: Phase) -> None:
        """Change the phase of a running job."""
        if self["phase"] != phase.value:
            self.set(phase=phase.value)
            self._emit_state()

    def _emit_state(self) -> None:
        data = {name: self[name] for name in ("state", "phase", "attempt")}
        if self["error"]:
            data["error"] = self["error"]
        self.emit(EventType.STATE, data)

    def update_units(self, *kinds: UnitKind) -> Update:
        """An UPDATE of this job's units of these kinds."""
        return update(units).where(
            units.c.job_id == self.id, units.c.kind.in_([kind.value for kind in kinds])
        )

    def save(self) -> None:
        """Write what was changed, its events, and a message to each endpoint that listens."""
        self.save_all([self])

    @staticmethod
    def save_all(locked: Sequence[LockedJob]) -> None:
        """Save several jobs of one tenant, locked by one transaction, in a few statements."""
        changed = [job for job in locked if job._changes]
        if changed:
            _update(changed)
            _let_go_of_places(changed)
        rows = [row for job in locked for row in job._events]
        if rows:
            locked[0].connection.execute(insert(events), rows)
        telling = [job for job in locked if job._news]
        if telling and anyone_listens(telling[0].connection, telling[0]["tenant"]):
            for job in telling:
                for event, seq, data in job._news:
                    job._tell(event, seq, data)
        for job in locked:
            job._state_before, job._changes = job._row["state"], {}
            job._events, job._news = [], []

    @property
    def changes(self) -> dict[str, Any]:
        """What `save` will write."""
        return self._changes

    @property
    def state_before(self) -> str:
        """The state in which the row was found."""
        return str(self._state_before)

    def _tell(self, event: HookEvent, seq: int, data: dict[str, Any]) -> None:
        """A message to each endpoint, in the same transaction as the change it tells of."""
        announce(
            self.connection,
            self["tenant"],
            event,
            subject=self.id,
            origin=f"{self.id}:{seq}",
            data=data,
            now=self.now,
            notify=self["request"].get("notify") or (),
        )

    def record(self) -> JobRecord:
        self.save()
        row = self.connection.execute(select(jobs).where(jobs.c.id == self.id)).mappings().one()
        told = conditions_of(self.connection, [row], self.now, self._rules.quota)
        return to_job(row, self._rules.max_attempts, told.get(self.id, ()))


def _update(changed: Sequence[LockedJob]) -> None:
    connection, now = changed[0].connection, changed[0].now
    names = {name for job in changed for name in job.changes}
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names} | {
        "update_time": now
    }
    found = connection.execute(
        update(jobs)
        # The lock makes this certain; the condition makes it provable.
        .where(jobs.c.id == bindparam("this_id"), jobs.c.state == bindparam("state_before"))
        .values(values),
        [
            {"this_id": job.id, "state_before": job.state_before}
            | {f"new_{name}": job[name] for name in names}
            for job in changed
        ],
    )
    countable = len(changed) == 1 or connection.dialect.supports_sane_multi_rowcount
    if countable and found.rowcount != len(changed):
        raise AssertionError(f"job {changed[0].id} changed under its lock")
    for job in changed:
        job.row["update_time"] = now


def _let_go_of_places(locked: Sequence[LockedJob]) -> None:
    """Others may write to where the jobs that have ended wrote."""
    ended = [job.id for job in locked if job.state in TERMINAL]
    for start in range(0, len(ended), _MANY):
        mine = places.c.job_id.in_(ended[start : start + _MANY])
        locked[0].connection.execute(delete(places).where(mine))


class Verbs:
    """What every group of the ledger's verbs needs."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        lease_s: float = 15.0,
        max_attempts: int = 25,
        keep_days: Callable[[str], int | None] = lambda tenant: None,
        quota: Quota = NO_LIMITS,
    ) -> None:
        self._db = Database(engine)
        self._clock = clock
        self._lease_s = lease_s
        self._rules = Rules(max_attempts, keep_days, quota)
        self._quota = quota

    @property
    def rules(self) -> Rules:
        """What holds for every job."""
        return self._rules

    @property
    def quota(self) -> Quota:
        """The limits of tenants that have none of their own."""
        return self._quota

    def _lock(self, connection: Connection, job_id: str, tenant: str | None = None) -> LockedJob:
        query = select(jobs).where(jobs.c.id == job_id).with_for_update(key_share=True)
        row = connection.execute(query).mappings().one_or_none()
        if row is None or hidden(row, tenant):
            raise not_found(job_id)
        # The time is read under the lock, so that a job's events are in order of time too.
        return LockedJob(connection, row, self._clock.now(), self._rules)

    @contextmanager
    def _open(self, job_id: str, tenant: str | None = None) -> Iterator[LockedJob]:
        with self._db.write() as connection:
            job = self._lock(connection, job_id, tenant)
            yield job
            job.save()

    @contextmanager
    def _open_if_there(self, job_id: str) -> Iterator[LockedJob | None]:
        """For those who come after a job that may have been deleted meanwhile."""
        with self._db.write() as connection:
            try:
                job = self._lock(connection, job_id)
            except ArrowQuantError as error:
                if error.code != "not_found":
                    raise
                yield None
                return
            yield job
            job.save()

    @contextmanager
    def _held(
        self, claim: Claim, *, also: Sequence[UnitState] = ()
    ) -> Iterator[tuple[LockedJob, RowMapping]]:
        """The job of a claim, locked, and the unit, if the claim still holds it.

        `also` names states in which the unit may be left by this very claim: a call that is
        repeated because its answer got lost must not fail.
        """
        with self._open(claim.job_id) as job:
            unit = read_unit(job, claim.kind, claim.seq)
            held = unit["state"] == UnitState.LEASED and job.state in WORKING[claim.kind]
            if unit["fence"] != claim.fence or not (held or unit["state"] in also):
                raise LeaseLost(f"{claim.job_id} {claim.kind} {claim.seq} fence {claim.fence}")
            yield job, unit


def read_unit(job: LockedJob, kind: UnitKind, seq: int) -> RowMapping:
    query = select(units).where(
        units.c.job_id == job.id, units.c.kind == kind.value, units.c.seq == seq
    )
    found = job.connection.execute(query).mappings().one_or_none()
    if found is None:  # planned anew meanwhile, into fewer units
        raise LeaseLost(f"{job.id} {kind} {seq} is no more")
    return found


def hidden(row: RowMapping, tenant: str | None) -> bool:
    """Whether a job is not there for a tenant: another's, or deleted. None sees all."""
    return tenant is not None and (tenant != row["tenant"] or row["delete_time"] is not None)


def not_found(job_id: str) -> ArrowQuantError:
    return ArrowQuantError("not_found", "there is no such job", where={"job": job_id})

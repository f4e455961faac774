"""Whose turn it is: the order in which units of work are taken.

Units wait in lanes: one for each kind of turn, priority and tenant. An index holds every lane in
order of age, so that finding the next job takes a few looks into each lane, however long it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    union_all,
)

from service.adapters.sql.tables import UnitState, UtcDateTime, jobs, units
from service.domain.job import PRIORITIES, UnitKind

# After so long a job counts as if it had the next higher priority.
AGING: Final = timedelta(hours=1)
_HIGHEST: Final = max(PRIORITIES.values())
_MANY: Final = 500  # values in one IN list


class Turn(IntEnum):
    """Kinds of turns."""

    CLEANUP = 0  #: goes before all else: it is short, and a person waits for it
    BEGUN = 1  #: of a job that somebody has begun
    WAITING = 2  #: would begin its job, if the tenant may run one more


def lane_of(kind: UnitKind, priority: int, tenant: str, *, waiting: bool = False) -> str:
    """The lane of a unit, whose job is QUEUED if it is waiting."""
    turn = Turn.BEGUN
    if kind is UnitKind.CLEANUP:
        turn = Turn.CLEANUP
    elif kind is UnitKind.PLAN and waiting:
        turn = Turn.WAITING
    return f"{turn.value}:{priority}:{tenant}"


def claimable(now: datetime) -> ColumnElement[bool]:
    """Units that somebody could take."""
    return or_(
        and_(units.c.state == UnitState.FREE, _due(units, now)),
        and_(units.c.state == UnitState.LEASED, units.c.lease_expires <= now),
    )


def next_job(connection: Connection, now: datetime, full: Collection[str]) -> str | None:
    """The job that a unit is to be taken of: cleaning up comes first, then what is most urgent, of
    that the tenant with the fewest running units, of those the oldest.

    full  tenants with as many running jobs as they may have: they go on with those
    """
    heads = [head for head in _heads(connection, now) if head.may_begin(full)]
    if len({head.job_id for head in heads}) <= 1:
        return heads[0].job_id if heads else None
    running = _running(connection, now)
    first = min(head.rank(running) for head in heads)
    return _oldest(connection, {head.job_id for head in heads if head.rank(running) == first})


class _Head(NamedTuple):
    """The oldest job of a lane among those that have grown older by some steps."""

    turn: Turn
    priority: int
    tenant: str
    steps: int
    job_id: str

    def may_begin(self, full: Collection[str]) -> bool:
        return self.turn is not Turn.WAITING or self.tenant not in full

    def rank(self, running: dict[str, int]) -> tuple[bool, int, int]:
        """Less is sooner. The priority is one higher for every AGING in which the job has not been
        finished, up to the highest: what is urgent goes first, and what is not is not put off for
        ever."""
        urgency = min(self.priority + self.steps, _HIGHEST)
        return self.turn is not Turn.CLEANUP, -urgency, running.get(self.tenant, 0)


def _heads(connection: Connection, now: datetime) -> Iterator[_Head]:
    """Every job that could be next. One that has grown older by two steps is also the oldest of
    those that have by one, if it is older than they: so the best rank of each is its true one."""
    moments = {_by(steps): now - AGING * steps for steps in range(_HIGHEST + 1)}
    for row in connection.execute(_FIND_HEADS, moments):
        if row.job_id is not None:
            turn, priority, tenant = row.lane.split(":", 2)
            yield _Head(Turn(int(turn)), int(priority), tenant, row.steps, row.job_id)


def _by(steps: int) -> str:
    """The parameter that says by when a job was queued that has grown older by so many steps."""
    return f"by_{steps}"


_NOW: Final = bindparam(_by(0), type_=UtcDateTime)


def _find_heads() -> CompoundSelect[Any]:
    lanes = _lanes()
    found = []
    for steps in range(_HIGHEST + 1):
        found.append(_oldest_free(lanes, steps))
        found.append(_abandoned(steps))
    return union_all(*found)


def _word(state: UnitState) -> ColumnElement[str]:
    # Written out: an index of some states is used only where the query says which it asks for.
    return literal_column(f"'{state.value}'", String)


def _free(table: Any) -> ColumnElement[bool]:
    return cast(ColumnElement[bool], table.c.state == _word(UnitState.FREE))


def _leased() -> ColumnElement[bool]:
    # The first half is the index's own condition, which SQLite wants to see word for word.
    either = units.c.state.in_([_word(UnitState.FREE), _word(UnitState.LEASED)])
    return and_(either, units.c.state == _word(UnitState.LEASED))


def _due(table: Any, now: Any) -> ColumnElement[bool]:
    return or_(table.c.not_before.is_(None), table.c.not_before <= now)


def _lanes() -> CTE:
    """Names of the lanes in which somebody waits, each found by one look into the index; then one
    that is NULL."""
    free = _free(units)
    lanes = select(func.min(units.c.lane).label("lane")).where(free).cte("lanes", recursive=True)
    after = select(func.min(units.c.lane)).where(free, units.c.lane > lanes.c.lane)
    following = select(after.scalar_subquery()).where(lanes.c.lane.is_not(None))
    return lanes.union_all(following)


def _oldest_free(lanes: CTE, steps: int) -> Select[Any]:
    unit = units.alias()
    oldest = (
        select(unit.c.job_id)
        .where(unit.c.lane == lanes.c.lane, _free(unit), _due(unit, _NOW))
        .order_by(unit.c.create_time, unit.c.job_id)
        .limit(literal_column("1"))
    )
    if steps:
        by = bindparam(_by(steps), type_=UtcDateTime)
        # What was queued by then was made by then: this ends the search among the younger.
        oldest = oldest.where(unit.c.queue_time <= by, unit.c.create_time <= by)
    job_id = oldest.scalar_subquery().label("job_id")
    return select(lanes.c.lane, literal_column(str(steps)).label("steps"), job_id)


def _abandoned(steps: int) -> Select[Any]:
    """Units whose lease ran out: never more than there are workers."""
    query = select(units.c.lane, literal_column(str(steps)).label("steps"), units.c.job_id)
    query = query.where(_leased(), units.c.lease_expires <= _NOW)
    by = bindparam(_by(steps), type_=UtcDateTime)
    return query.where(units.c.queue_time <= by) if steps else query


# Made once: to put it together takes longer than to ask it.
_FIND_HEADS: Final = _find_heads()


def _running(connection: Connection, now: datetime) -> dict[str, int]:
    """How many units each tenant has under way."""
    under_way = _leased(), units.c.lease_expires > now
    query = (
        select(units.c.tenant, func.count().label("leases"))
        .where(*under_way)
        .group_by(units.c.tenant)
    )
    return {row.tenant: row.leases for row in connection.execute(query)}


def _oldest(connection: Connection, job_ids: Collection[str]) -> str:
    ids, rows = list(job_ids), []
    for start in range(0, len(ids), _MANY):
        some = jobs.c.id.in_(ids[start : start + _MANY])
        query = select(jobs.c.create_time, jobs.c.id).where(some)
        rows += [tuple(row) for row in connection.execute(query)]
    return str(min(rows)[1])

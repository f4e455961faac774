"""A page of jobs as one query: filters, any order, and where the page before ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    false,
    literal,
    or_,
    select,
)

from service.adapters.sql.tables import UtcDateTime, jobs, labels
from service.domain.ordering import LATER, By, Value
from service.domain.ports import JobQuery

# Stands for a time that has not come; a flag before it says so.
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


def page_of(query: JobQuery, now: datetime) -> Select[Any]:
    """The query of a page. `now` counts where there was no page before."""
    as_of = query.after.as_of if query.after else now
    terms = [term for by in query.order for term in _terms(by, as_of)]
    found = _filtered(query)
    if query.after is not None:
        values = zip(query.order, query.after.values, strict=True)
        found = found.where(_past(terms, [v for by, value in values for v in _flat(by, value)]))
    ordered = (term.desc() if down else term.asc() for term, down in terms)
    return found.order_by(*ordered).limit(query.limit)


def _filtered(query: JobQuery) -> Select[Any]:
    found = select(jobs).where(jobs.c.tenant == query.tenant, jobs.c.delete_time.is_(None))
    if query.states:
        found = found.where(jobs.c.state.in_([state.value for state in query.states]))
    if query.name is not None:
        found = found.where(jobs.c.name == query.name)
    if query.created_after is not None:
        found = found.where(jobs.c.create_time > query.created_after)
    if query.created_before is not None:
        found = found.where(jobs.c.create_time < query.created_before)
    if query.batch_id is not None:
        found = found.where(jobs.c.batch_id == query.batch_id)
    for key, value in query.labels:
        labelled = select(labels.c.job_id).where(labels.c.key == key, labels.c.value == value)
        found = found.where(jobs.c.id.in_(labelled))
    return found


def _terms(by: By, as_of: datetime) -> list[tuple[ColumnElement[Any], bool]]:
    """What to sort by, never NULL: databases disagree on where NULL comes."""
    column = jobs.c[by.field]
    if by.field not in LATER:
        return [(column, by.descending)]
    happened = and_(column.is_not(None), column <= as_of)
    moment = case((happened, column), else_=literal(_NEVER, UtcDateTime))
    return [(case((happened, 0), else_=1), by.descending), (moment, by.descending)]


def _flat(by: By, value: Value) -> list[Value]:
    """The values that belong to `_terms`."""
    if by.field not in LATER:
        return [value]
    return [1, _NEVER] if value is None else [0, value]


def _past(terms: list[tuple[ColumnElement[Any], bool]], values: list[Value]) -> ColumnElement[bool]:
    """Rows that come after these values: greater in the first term, or equal there and greater in
    the next, and so on."""
    condition: ColumnElement[bool] = false()
    for (term, down), value in reversed(list(zip(terms, values, strict=True))):
        beyond = term < value if down else term > value
        condition = or_(beyond, and_(term == value, condition))
    return condition

"""In what order jobs are listed: `order_by` as AIP-132 writes it, and where a page ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self, get_args

OrderField = Literal["create_time", "start_time", "end_time", "name", "priority", "id"]
TIMES: Final = frozenset({"create_time", "start_time", "end_time"})
# Set once the job starts or ends: whatever has not happened yet sorts after everything that has.
LATER: Final = frozenset({"start_time", "end_time"})
_FIELDS: Final = frozenset(get_args(OrderField))
Value = str | int | datetime | None


@dataclass(frozen=True, slots=True)
class By:
    """One field to sort by."""

    field: OrderField
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.field} desc" if self.descending else self.field


NEWEST_FIRST: Final = (By("id", descending=True),)


def parse_order(text: str | None) -> tuple[By, ...]:
    """`priority desc, name`: fields in the order they count, made total by the id.

    Raises ValueError with a text for whoever wrote it.
    """
    if text is None or not text.strip():
        return NEWEST_FIRST
    order: list[By] = []
    for term in text.split(","):
        words = term.split()
        name, way = (words[0] if words else ""), [word.lower() for word in words[1:]]
        if name not in _FIELDS or name == "id" or way not in ([], ["asc"], ["desc"]):
            fields = ", ".join(sorted(_FIELDS - {"id"}))
            raise ValueError(
                f"{term.strip()!r:.60} is not one of {fields} with asc or desc after it"
            )
        if any(by.field == name for by in order):
            raise ValueError(f"{name} is named twice")
        order.append(By(name, descending=way == ["desc"]))  # type: ignore[arg-type]
    return (*order, By("id", descending=order[-1].descending))


@dataclass(frozen=True, slots=True)
class After:
    """Where a page ended: the values of its last row, as they counted.

    as_of  when the first page was read. What starts or ends later has not happened for these
           pages, so that no job moves from one to the other while they are read.
    """

    as_of: datetime
    values: tuple[Value, ...]

    @classmethod
    def row(cls, order: tuple[By, ...], row: Any, as_of: datetime) -> Self:
        """The position of a record with the fields' names as attributes."""
        return cls(as_of, tuple(_counted(by, getattr(row, by.field), as_of) for by in order))

    def as_list(self) -> list[str | int | None]:
        """For a page token."""
        values = (v.isoformat() if isinstance(v, datetime) else v for v in self.values)
        return [self.as_of.isoformat(), *values]

    @classmethod
    def parse(cls, order: tuple[By, ...], data: list[Any]) -> Self:
        """The reverse of `as_list`. Raises ValueError for anything else."""
        if len(data) != len(order) + 1:
            raise ValueError("another number of values")
        values = zip(order, data[1:], strict=True)
        return cls(_time(data[0]), tuple(_parsed(by, value) for by, value in values))


def _counted(by: By, value: Any, as_of: datetime) -> Value:
    if by.field in LATER and value is not None and value > as_of:
        return None
    found: Value = value
    return found


def _parsed(by: By, value: Any) -> Value:
    if by.field in TIMES:
        return None if value is None and by.field in LATER else _time(value)
    kind = int if by.field == "priority" else str
    if type(value) is not kind or (isinstance(value, str) and "\0" in value):
        raise ValueError("a value of another kind")
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise ValueError("a number out of range")
    found: Value = value
    return found


def _time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("not a time")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None or not 1970 <= moment.year < 9999:
        raise ValueError("not a time of ours")
    return moment.astimezone(UTC)

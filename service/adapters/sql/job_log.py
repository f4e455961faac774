"""Jobs' logs in SQL: appended in batches, read in pages, cut at the front."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Engine, RowMapping, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from service.adapters.sql.engine import Database
from service.adapters.sql.locked import not_found
from service.adapters.sql.log_tables import log_heads, log_lines
from service.adapters.sql.tables import jobs
from service.domain.job_log import (
    LEVELS,
    MAX_LINE_BYTES,
    MAX_LINES,
    JobLog,
    LogLine,
    LogPage,
    LogQuery,
)

_WORDS: Final = {number: word for word, number in LEVELS.items()}
_KEPT: Final = ("event", "unit", "tensor", "trace_id", "data")


class SqlJobLog(JobLog):
    """`JobLog` on SQLite or PostgreSQL."""

    def __init__(self, engine: Engine, max_lines: int = MAX_LINES) -> None:
        self._db, self._max = Database(engine), max_lines
        # So many more before the oldest go, so that not every line costs a deletion.
        self._slack = max_lines // 10

    def append(self, job_id: str, lines: Sequence[LogLine]) -> None:
        try:
            with self._db.write() as connection:
                _make_head(connection, job_id)
                last = self._advance(connection, job_id, len(lines))
                rows = [
                    _row(job_id, last - len(lines) + 1 + i, line) for i, line in enumerate(lines)
                ]
                connection.execute(insert(log_lines), rows)
        except IntegrityError:
            return  # the job was deleted meanwhile

    def read(self, query: LogQuery) -> LogPage:
        found = (
            select(log_lines)
            .where(
                log_lines.c.job_id == query.job_id,
                log_lines.c.seq > query.after,
                log_lines.c.level >= LEVELS[query.level],
            )
            .order_by(log_lines.c.seq)
            .limit(query.limit)
        )
        if query.tensor is not None:
            found = found.where(log_lines.c.tensor == _name(query.tensor))
        with self._db.read() as connection:
            first = _first(connection, query)
            return LogPage([_line(row) for row in connection.execute(found).mappings()], first)

    def _advance(self, connection: Connection, job_id: str, count: int) -> int:
        """Take numbers for new lines; drops the oldest when there are too many."""
        this = log_heads.c.job_id == job_id
        head = connection.execute(
            update(log_heads)
            .where(this)
            .values(last_seq=log_heads.c.last_seq + count)
            .returning(log_heads.c.first_seq, log_heads.c.last_seq)
        ).one()
        if head.last_seq - head.first_seq >= self._max + self._slack:
            first = head.last_seq - self._max + 1
            old = (log_lines.c.job_id == job_id, log_lines.c.seq < first)
            connection.execute(delete(log_lines).where(*old))
            connection.execute(update(log_heads).where(this).values(first_seq=first))
        return int(head.last_seq)


def _make_head(connection: Connection, job_id: str) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = {"job_id": job_id, "first_seq": 1, "last_seq": 0}
    connection.execute(dialect.insert(log_heads).values(**row).on_conflict_do_nothing())


def _first(connection: Connection, query: LogQuery) -> int:
    """The oldest line's number; raises not_found if the job is not the tenant's."""
    owned = (
        select(jobs.c.tenant, log_heads.c.first_seq)
        .outerjoin(log_heads, log_heads.c.job_id == jobs.c.id)
        .where(jobs.c.id == query.job_id)
    )
    row = connection.execute(owned).one_or_none()
    if row is None or row.tenant != query.tenant:
        raise not_found(query.job_id)
    return int(row.first_seq or 1)


def _row(job_id: str, seq: int, line: LogLine) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "seq": seq,
        "time": line.time,
        "level": LEVELS.get(line.level, LEVELS["info"]),
        "tensor": None if line.tensor is None else _name(line.tensor),
        "line": _bounded(line),
    }


def _bounded(line: LogLine) -> dict[str, Any]:
    """What is kept as JSON; of a line that is too long, no more than what tells its place."""
    kept = {name: value for name, value in asdict(line).items() if name in _KEPT}
    size = len(json.dumps(kept, default=str))
    if size <= MAX_LINE_BYTES:
        return kept
    # A character of a text becomes up to six in JSON; there are at most five texts.
    room = MAX_LINE_BYTES // 40
    texts = {name: value[:room] for name, value in kept.items() if isinstance(value, str)}
    begins = json.dumps(line.data, default=str)[:room]
    return kept | texts | {"data": {"cut": True, "chars": size, "begins": begins}}


def _name(tensor: str) -> str:
    return json.dumps(tensor)


def _line(row: RowMapping) -> LogLine:
    level = _WORDS.get(row["level"], "info")
    return LogLine(seq=row["seq"], time=row["time"], level=level, **row["line"])

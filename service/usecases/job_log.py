"""Reading a job's log, with a mark where its beginning is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from service.domain.job_log import JobLog, LogLine, LogQuery

AT_ONCE: Final = 500
TRUNCATED: Final = "log_truncated"


def page(log: JobLog, query: LogQuery) -> Sequence[LogLine]:
    """A page of lines; the first says so if lines between `after` and it were dropped."""
    found = log.read(query)
    dropped = found.first - 1 - query.after
    if dropped <= 0 or not found.lines:
        return found.lines
    mark = LogLine(
        seq=found.first - 1,
        time=found.lines[0].time,
        level="warning",
        event=TRUNCATED,
        data={"dropped": dropped},
    )
    return [mark, *found.lines]


def lines(log: JobLog, query: LogQuery) -> Iterator[Sequence[LogLine]]:
    """Everything that is there past `query.after`, page by page."""
    while True:
        found = page(log, query)
        yield found
        if len(found) < query.limit:
            return
        query = replace(query, after=found[-1].seq)

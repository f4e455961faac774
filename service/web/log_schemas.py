"""What the API answers of a job's log."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from service.domain.job_log import LogLine
from service.web.schemas import Out


class LogLineOut(Out):
    """One line. `seq` counts within the job; `data` has what belongs to the event."""

    seq: int
    time: datetime
    level: str
    event: str
    unit: str | None
    tensor: str | None
    trace_id: str | None
    data: dict[str, Any]

    @classmethod
    def of(cls, line: LogLine) -> Self:
        return cls.model_validate(line)


class LogPageOut(Out):
    """Lines in order. Ask again with `after=next_after` for what follows."""

    logs: list[LogLineOut]
    next_after: int

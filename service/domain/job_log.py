"""The log of a job: what workers say while they work on it, kept for its owner, within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

# Of a job that says more, the oldest lines go.
MAX_LINES: Final = 5000
# A line that is longer is cut: its event, level and place stay.
MAX_LINE_BYTES: Final = 4096
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `seq` counts from 1 within the job and has no gaps but at its beginning.

    level  one of LEVELS
    unit   kind and number of the unit, as in "quantize:3"
    data   the line's other fields
    """

    seq: int
    time: datetime
    level: str
    event: str
    unit: str | None = None
    tensor: str | None = None
    trace_id: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Lines past `after`, of at least this level, of this tensor if one is named."""

    job_id: str
    tenant: str
    after: int = 0
    limit: int = 100
    level: str = "debug"
    tensor: str | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines in order. `first` is the seq of the oldest line that is kept; those before it are gone."""

    lines: list[LogLine]
    first: int


class JobLog(Protocol):
    """Where the lines are kept."""

    def append(self, job_id: str, lines: Sequence[LogLine]) -> None:
        """Number the lines and keep them; their own `seq` is not looked at. A job that is gone
        takes its lines with it. Raises database_unavailable."""

    def read(self, query: LogQuery) -> LogPage:
        """Raises not_found, also for another tenant's job."""

"""The machine's clock."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """Now, as aware UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)

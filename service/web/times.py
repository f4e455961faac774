"""Times that callers write."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BeforeValidator

_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.A
)

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.A)


def _is_rfc_3339(value: Any) -> Any:
    # Pydantic would also take numbers, as seconds since 1970, and dates without a time.
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("a time is written as in RFC 3339, for example 2026-01-31T12:00:00Z")
    return value


def _is_a_day(value: Any) -> Any:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("a day is written as 2026-01-31")
    return value


# A moment with its offset from UTC.
Moment = Annotated[AwareDatetime, BeforeValidator(_is_rfc_3339)]
Day = Annotated[date, BeforeValidator(_is_a_day)]

"""Bounds on the work of a job, and how long it is kept."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from service.domain.wire import Wire

MIN_MEMORY_BYTES: Final = 256 * 2**20


class Limits(Wire):
    """Bounds on the work itself; they never change a byte of the result."""

    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    max_memory_bytes: Annotated[int, Field(ge=MIN_MEMORY_BYTES)] | None = None
    max_runtime_s: Annotated[int, Field(ge=1, le=30 * 86400)] | None = None
    max_pending_s: Annotated[int, Field(ge=1, le=30 * 86400)] | None = None


class Retention(Wire):
    """How long a job is kept after its end, and whether its artifact goes with it."""

    days: Annotated[int, Field(ge=1, le=3650)]
    artifacts: Literal["keep", "delete"] = "keep"

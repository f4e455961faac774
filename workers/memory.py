"""How much a pipeline may hold at once, from the job's memory limit."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from service.domain.errors import ArrowQuantError
from service.domain.plan import Plan
from service.domain.units import TILE_BYTES, Unit

PREFERRED_BUFFERS = 3
UPLOAD_BYTES = 32 * 2**20  # parts an upload keeps in flight, see the object stores
SLACK_BYTES = 32 * 2**20  # allocator, thread stacks, JSON


@dataclass(frozen=True, slots=True)
class Budget:
    """Input buffers of a unit: how many, and how large each."""

    buffers: int
    buffer_bytes: int


def budget(plan: Plan, unit: Unit, max_memory_bytes: int | None) -> Budget:
    """Three tiles in flight (one read, one quantized, one written), fewer when memory is short.

    What a tile becomes is never larger than the tile, so each counts twice.
    Raises memory_limit_too_small when not even one tile fits beside what the process holds.
    """
    largest = max(
        (tile.rows * plan.tensors[tile.tensor].row_bytes for tile in plan.tiles(unit)),
        default=TILE_BYTES,
    )
    if max_memory_bytes is None:
        return Budget(PREFERRED_BUFFERS, largest)
    held = psutil.Process().memory_info().rss
    free = max_memory_bytes - held - UPLOAD_BYTES - SLACK_BYTES
    fitting = free // (2 * max(1, largest))
    if fitting < 1:
        need = held + UPLOAD_BYTES + SLACK_BYTES + 2 * largest
        raise ArrowQuantError(
            "memory_limit_too_small",
            f"the limit is {max_memory_bytes} bytes; this process and one tile need {need}",
            f"Raise max_memory to at least {-(-need // 2**20)} MiB.",
        )
    return Budget(min(PREFERRED_BUFFERS, fitting), largest)

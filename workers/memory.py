"""How much a pipeline may hold at once, from the job's memory limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

import kernels
from arrowquant.calibration.layout import PANEL_BYTES
from service.domain.errors import ArrowQuantError
from service.domain.outputs import JobPlan
from service.domain.treatment import TensorPlan
from service.domain.units import TILE_BYTES, Tile, Unit
from workers.stages.buffers import SPARE

PREFERRED_BUFFERS = 3
UPLOAD_BYTES = 32 * 2**20  # parts an upload keeps in flight, see the object stores
MOST_MOMENT_BYTES = 2 * 2**30
STATISTICS_BYTES = 20  # of a channel in a time bin: two sums and a largest
KEPT_INPUTS = 4  # of a calibration file, whose figures a tensor and its neighbours share
SLACK_BYTES = 32 * 2**20  # allocator, thread stacks, JSON


@dataclass(frozen=True, slots=True)
class Budget:
    """Input buffers of a unit: how many, and how large each."""

    buffers: int
    buffer_bytes: int


def budget(
    plan: JobPlan,
    unit: Unit,
    outputs: int,
    max_memory_bytes: int | None,
    reads_at_once: int = 1,
) -> Budget:
    """Three tiles in flight (one read, one quantized, one written), one more for each further read
    that is under way at once, fewer when memory is short.

    What a tile becomes is never larger than the tile, so each counts twice. Outputs are encoded one
    after the other, so more of them need no more tiles; but each has an upload of its own.
    Raises memory_limit_too_small when not even one tile fits beside what the process holds.
    """
    preferred = PREFERRED_BUFFERS + reads_at_once - 1
    tensors = plan.plans[0].tensors
    tiles = list(plan.tiles(unit))
    largest = max(
        (tile.rows * tensors[tile.tensor].row_bytes for tile in tiles), default=TILE_BYTES
    )
    moments = _moment_bytes(plan, unit)
    if max_memory_bytes is None:
        return Budget(preferred, largest)
    held = psutil.Process().memory_info().rss - SPARE.nbytes  # those are taken up again
    fixed = held + outputs * UPLOAD_BYTES + SLACK_BYTES + _turned_bytes(plan, tiles) + moments
    fixed += _statistics_bytes(plan, unit)
    free = max_memory_bytes - fixed
    fitting = free // (2 * max(1, largest))
    if fitting < 1:
        need = fixed + 2 * largest
        uploads = "an upload" if outputs == 1 else f"{outputs} uploads"
        raise ArrowQuantError(
            "memory_limit_too_small",
            f"the limit is {max_memory_bytes} bytes; this process, one tile and {uploads} "
            f"need {need}",
            f"Raise max_memory to at least {-(-need // 2**20)} MiB.",
        )
    return Budget(min(preferred, fitting), largest)


def _statistics_bytes(plan: JobPlan, unit: Unit) -> int:
    """What is kept of a calibration file: the sums over one input, and the diagonals by time of a few."""
    index = plan.catalog.calibration
    if index is None:
        return 0
    bins = max(1, len(index.edges) - 1)
    cols = [
        each.tensors[piece.tensor].cols
        for each in plan.plans
        for piece in unit.pieces
        if each.tensors[piece.tensor].treatment.calibrated
    ]
    return max(cols, default=0) * bins * (STATISTICS_BYTES + KEPT_INPUTS * 4)


def _moment_bytes(plan: JobPlan, unit: Unit) -> int:
    """What second moments take for GPTQ, of one input at a time. Raises memory_limit_too_small where
    they take more than MOST_MOMENT_BYTES, whatever the limit."""
    most = 0
    for each in plan.plans:
        for piece in unit.pieces:
            tensor = each.tensors[piece.tensor]
            block = tensor.treatment.gptq_block
            if block is None:
                continue
            need = kernels.gptq_bytes(tensor.cols, block) + PANEL_BYTES
            if tensor.treatment.col_scale:  # a second time, of the inputs divided
                need += kernels.gptq_bytes(tensor.cols, block)
            if need > MOST_MOMENT_BYTES:
                raise ArrowQuantError(
                    "memory_limit_too_small",
                    f"full second moments of {tensor.cols} channels take {need} bytes; "
                    f"at most {MOST_MOMENT_BYTES} are given to them",
                    "Use blocks of them: calibration.block 512 or 1024.",
                    {"tensor": tensor.name},
                )
            most = max(most, need)
    return most


def _turned_bytes(plan: JobPlan, tiles: Sequence[Tile]) -> int:
    """A tile that is rotated, scaled or measured by its output is copied to float32, one at a time."""
    return max(
        (
            _copies(each.tensors[tile.tensor]) * 4 * tile.rows * each.tensors[tile.tensor].cols
            for each in plan.plans
            for tile in tiles
            if _copies(each.tensors[tile.tensor])
        ),
        default=0,
    )


def _copies(tensor: TensorPlan) -> int:
    """How often a tile is held as float32."""
    how = tensor.treatment
    if how.calibrated:
        return 3 if how.gptq_block is not None and how.col_scale else 2
    return 1 if tensor.rotated else 0

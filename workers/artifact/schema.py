"""The Arrow form of a part: one record batch of one row per tile.

The codes of a tile are one binary value, so a reader maps it without a copy, and scales live once
per group. `docs/artifact-format.md` is the public description; change both or neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from service.domain.treatment import TensorPlan
from service.domain.units import Tile

FORMAT_VERSION = "1"
BIT_ORDER = "lsb0_dense_row"

# One scale for the whole tensor, as against 0: one for each row.
PER_TENSOR_GROUP = -1

PART_SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.utf8(), nullable=False),
        pa.field("tile_index", pa.int32(), nullable=False),
        pa.field("row_start", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("cols", pa.int64(), nullable=False),
        pa.field("shape", pa.list_(pa.int64()), nullable=False),
        pa.field("orig_dtype", pa.utf8(), nullable=False),
        pa.field("role", pa.utf8(), nullable=False),
        pa.field("codec", pa.utf8(), nullable=False),
        pa.field("bits", pa.int16(), nullable=False),
        pa.field("group_size", pa.int32(), nullable=False),
        pa.field("bit_order", pa.utf8(), nullable=False),
        pa.field("row_stride_bytes", pa.int64(), nullable=False),
        pa.field("codes", pa.large_binary(), nullable=False),
        pa.field("scales", pa.large_list(pa.float16())),
        pa.field("mins", pa.large_list(pa.float16())),
        pa.field("relmse", pa.float32()),
        pa.field("crc32c", pa.uint32(), nullable=False),
    ],
    metadata={"arrowquant.format": FORMAT_VERSION},
)


@dataclass(frozen=True, slots=True)
class StoredTile:
    """What a tile became.

    codes   uint8, any shape: the packed codes or the raw bytes
    scales  float16 (rows, groups) or (1, 1), None for raw
    mins    as scales, None for symmetric and raw
    relmse  squared error over squared weights of this tile, None for raw
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16] | None
    mins: npt.NDArray[np.float16] | None
    relmse: float | None
    crc32c: int


def tile_batch(plan: TensorPlan, tile: Tile, stored: StoredTile) -> pa.RecordBatch:
    """One row, built around the kernel's own buffers: nothing is copied."""
    how = plan.treatment
    raw = how.codec == "raw"
    stride = stored.codes.nbytes // tile.rows if tile.rows else 0
    values: list[pa.Array] = [
        pa.array([plan.name], pa.utf8()),
        pa.array([tile.tile_index], pa.int32()),
        pa.array([tile.row_start], pa.int64()),
        pa.array([tile.rows], pa.int64()),
        pa.array([plan.cols], pa.int64()),
        pa.array([list(plan.source.shape)], pa.list_(pa.int64())),
        pa.array([plan.source.dtype], pa.utf8()),
        pa.array([plan.role.value], pa.utf8()),
        pa.array([how.codec], pa.utf8()),
        pa.array([0 if raw else how.bits], pa.int16()),
        pa.array([_group_size(plan)], pa.int32()),
        pa.array(["" if raw else BIT_ORDER], pa.utf8()),
        pa.array([stride], pa.int64()),
        _one_binary(stored.codes),
        _one_list(stored.scales),
        _one_list(stored.mins),
        pa.array([stored.relmse], pa.float32()),
        pa.array([stored.crc32c], pa.uint32()),
    ]
    return pa.RecordBatch.from_arrays(values, schema=PART_SCHEMA)


def _group_size(plan: TensorPlan) -> int:
    how = plan.treatment
    if how.codec == "raw":
        return 0
    return PER_TENSOR_GROUP if how.per_tensor else how.group_size


def _one_binary(data: npt.NDArray[np.uint8]) -> pa.Array:
    offsets = pa.py_buffer(np.array([0, data.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])


def _one_list(values: npt.NDArray[np.float16] | None) -> pa.Array:
    kind = pa.large_list(pa.float16())
    if values is None:
        return pa.nulls(1, kind)
    offsets = pa.py_buffer(np.array([0, values.size], np.int64))
    items = pa.Array.from_buffers(pa.float16(), values.size, [None, pa.py_buffer(values)])
    return pa.Array.from_buffers(kind, 1, [None, offsets], children=[items])

"""The Arrow form of a part: one record batch of one row per tile.

The codes of a tile are one binary value, so a reader maps it without a copy, and scales live once
per group. `docs/artifact-format.md` is the public description; change both or neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kernels import rotation_block
from service.domain.report import FORMAT_VERSION
from service.domain.treatment import ROTATION_SEED, TensorPlan
from service.domain.units import Tile

BIT_ORDER = "lsb0_dense_row"

# One scale for the whole tensor, as against 0: one for each row.
PER_TENSOR_GROUP = -1

ROTATION = pa.struct(
    [
        pa.field("kind", pa.utf8(), nullable=False),
        pa.field("block", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)
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
        pa.field("scale_bits", pa.int16()),
        pa.field("scale_codes", pa.large_binary()),
        pa.field("min_codes", pa.large_binary()),
        pa.field("codebook", pa.list_(pa.float32())),
        pa.field("rotation", ROTATION),
        pa.field("col_scale", pa.large_list(pa.float32())),
        pa.field("bias_correction", pa.large_list(pa.float32())),
        pa.field("rho", pa.float32()),
    ],
    metadata={"arrowquant.format": str(FORMAT_VERSION)},
)


@dataclass(frozen=True, slots=True)
class StoredTile:
    """What a tile became. Which of these a codec has, `service.domain.codecs` says.

    codes            uint8, any shape: the packed codes or the raw bytes
    relmse           squared error over squared weights of this tile, None for raw
    scales, mins     float16, any shape, row by row
    scale_codes, min_codes   uint8, any shape: packed codes of scales and minima
    codebook         float32 (levels,)
    col_scale        float32 (cols,): what columns were multiplied by
    bias_correction  float32 (rows,): what is to be added to the layer's bias
    rho              squared error of the layer's output over its square, where it is known
    """

    codes: npt.NDArray[np.uint8]
    relmse: float | None = None
    scales: npt.NDArray[np.float16] | None = None
    mins: npt.NDArray[np.float16] | None = None
    scale_codes: npt.NDArray[np.uint8] | None = None
    min_codes: npt.NDArray[np.uint8] | None = None
    codebook: npt.NDArray[np.float32] | None = None
    col_scale: npt.NDArray[np.float32] | None = None
    bias_correction: npt.NDArray[np.float32] | None = None
    rho: float | None = None


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
        pa.array([PER_TENSOR_GROUP if how.per_tensor else how.group_size], pa.int32()),
        pa.array(["" if raw else BIT_ORDER], pa.utf8()),
        pa.array([stride], pa.int64()),
        _one_binary(stored.codes),
        _one_list(stored.scales, pa.large_list(pa.float16())),
        _one_list(stored.mins, pa.large_list(pa.float16())),
        pa.array([stored.relmse], pa.float32()),
        pa.array([google_crc32c.value(stored.codes.reshape(-1))], pa.uint32()),
        pa.array([how.scale_bits or None], pa.int16()),
        _one_binary(stored.scale_codes),
        _one_binary(stored.min_codes),
        _one_list(stored.codebook, pa.list_(pa.float32())),
        _rotation(plan),
        _one_list(stored.col_scale, pa.large_list(pa.float32())),
        _one_list(stored.bias_correction, pa.large_list(pa.float32())),
        pa.array([stored.rho], pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(values, schema=PART_SCHEMA)


def _rotation(plan: TensorPlan) -> pa.Array:
    if not plan.rotated:
        return pa.nulls(1, ROTATION)
    block = rotation_block(plan.cols)
    how = {"kind": plan.treatment.rotation, "block": block, "seed": ROTATION_SEED}
    return pa.array([how], ROTATION)


def _one_binary(data: npt.NDArray[np.uint8] | None) -> pa.Array:
    if data is None:
        return pa.nulls(1, pa.large_binary())
    offsets = pa.py_buffer(np.array([0, data.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])


def _one_list(values: npt.NDArray[np.floating] | None, kind: pa.DataType) -> pa.Array:
    if values is None:
        return pa.nulls(1, kind)
    width = np.int64 if pa.types.is_large_list(kind) else np.int32
    offsets = pa.py_buffer(np.array([0, values.size], width))
    buffers = [None, pa.py_buffer(values)]
    items = pa.Array.from_buffers(kind.value_type, values.size, buffers)
    return pa.Array.from_buffers(kind, 1, [None, offsets], children=[items])

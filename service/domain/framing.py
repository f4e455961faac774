"""Bytes of an artifact's files beyond the payload, so that a plan can announce the total.

A part is an Arrow IPC file (https://arrow.apache.org/docs/format/Columnar.html): magic and schema,
then for every tile a record batch of one row whose metadata has a fixed size and whose buffers are
padded to 8 bytes, then a footer with one block entry for each batch. The two constants are those of
the schema in `workers.artifact.schema`; a test writes real parts and compares.
"""

from __future__ import annotations

from service.domain.plan import Plan
from service.domain.treatment import TensorPlan
from service.domain.units import Tile, Unit

FILE_BYTES = 3826  # schema message, end marker, footer with the schema again
BATCH_BYTES = 1904 + 24  # record batch metadata, block entry in the footer
# tile_index row_start rows cols bits group_size row_stride relmse crc32c scale_bits rho
_FIXED_COLUMNS = 11 * 8
_UTF8_OFFSETS = 5 * 8
_LIST_OFFSETS = 2 * 8 + 7 * 16  # shape, codebook; codes, scales, mins, their codes, two of factors
_ROTATION, _NO_ROTATION = 4 * 8, 7 * 8
_VALIDITY = 8  # of a column that is null


def part_bytes(plan: Plan, unit: Unit) -> int:
    """Size of the part that this unit writes, to within the flatbuffers' own padding."""
    return FILE_BYTES + sum(
        BATCH_BYTES + _body_bytes(plan.tensors[tile.tensor], tile) for tile in plan.tiles(unit)
    )


def _body_bytes(tensor: TensorPlan, tile: Tile) -> int:
    stored = tensor.tile_sizes(tile.rows)
    raw = tensor.treatment.codec == "raw"
    texts = (
        tensor.name,
        tensor.source.dtype,
        tensor.role.value,
        tensor.treatment.codec,
        "" if raw else "lsb0_dense_row",
    )
    # A null column has no bytes; of codes, a tile of no rows has none either.
    nulls = sum(size == 0 for size in stored.columns()[1:])
    nulls += raw + (tensor.treatment.scale_bits == 0) + (not tensor.treatment.calibrated)
    return (
        _FIXED_COLUMNS
        + _UTF8_OFFSETS
        + _LIST_OFFSETS
        + (_ROTATION if tensor.rotated else _NO_ROTATION)
        + _VALIDITY * nulls
        + 8 * len(tensor.source.shape)
        + sum(_padded(len(text.encode())) for text in texts)
        + sum(map(_padded, stored.columns()))
    )


def batch_bytes(tensor: TensorPlan, tile: Tile) -> int:
    """What a tile adds to its part."""
    return BATCH_BYTES + _body_bytes(tensor, tile)


def _padded(nbytes: int) -> int:
    return -(-nbytes // 8) * 8

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

FILE_BYTES = 2466  # schema message, end marker, footer with the schema again
BATCH_BYTES = 1200 + 24  # record batch metadata, block entry in the footer
_FIXED_COLUMNS = 9 * 8  # tile_index row_start rows cols bits group_size row_stride relmse crc32c
_UTF8_OFFSETS = 5 * 8
_LIST_OFFSETS = 8 + 3 * 16  # shape; codes, scales, mins


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
    nulls = 3 if raw else (1 if tensor.treatment.symmetric else 0)  # validity bitmaps
    return (
        _FIXED_COLUMNS
        + _UTF8_OFFSETS
        + _LIST_OFFSETS
        + 8 * nulls
        + 8 * len(tensor.source.shape)
        + sum(_padded(len(text.encode())) for text in texts)
        + _padded(stored.codes)
        + _padded(stored.scales)
        + _padded(stored.mins)
    )


def _padded(nbytes: int) -> int:
    return -(-nbytes // 8) * 8

"""Bytes of what is stored, exactly, from shapes alone.

Payload is what carries weights: packed codes, scales, minima, raw tensors. The rest of a part file
is Arrow IPC framing (https://arrow.apache.org/docs/format/Columnar.html, "IPC File Format"): a
schema, and for every tile a record batch of one row, each of whose buffers is padded to 8 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BYTES = 2  # float16


@dataclass(frozen=True, slots=True)
class TileSizes:
    """Bytes of the value buffers of one tile."""

    codes: int
    scales: int
    mins: int

    @property
    def payload(self) -> int:
        return self.codes + self.scales + self.mins


def row_stride(cols: int, bits: int) -> int:
    """Bytes of one row of dense codes; rows start on a byte."""
    return -(-cols * bits // 8)


def groups_in_row(cols: int, group_size: int) -> int:
    """Groups of one row, the last one possibly shorter. `group_size` 0: the row is one group."""
    return -(-cols // group_size) if group_size else 1


def quantized_tile(
    rows: int, cols: int, *, bits: int, group_size: int, symmetric: bool, per_tensor: bool
) -> TileSizes:
    """Sizes of a tile of `rows` x `cols` weights."""
    scales = SCALE_BYTES * (1 if per_tensor else rows * groups_in_row(cols, group_size))
    return TileSizes(rows * row_stride(cols, bits), scales, 0 if symmetric else scales)


def raw_tile(nbytes: int) -> TileSizes:
    """Sizes of a tile of a tensor that is kept as it was."""
    return TileSizes(nbytes, 0, 0)

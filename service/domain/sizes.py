"""Bytes of what is stored, exactly, from shapes alone: one function for each codec.

Payload is what carries weights: packed codes, scales, minima, raw tensors. The rest of a part file
is Arrow IPC framing (`framing`). A codec that is added gets its function here, its decoder in
`arrowquant.artifact.codecs`, and a paragraph in docs/artifact-format.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

SCALE_BYTES = 2  # float16
SINGLE_BYTES = 4  # float32
TRELLIS_WINDOW = 12  # bits that choose a level
SUPER_BLOCK = 256  # weights that share a pair of steps


class Coding(Protocol):
    """What sizes depend on, see treatment.Treatment."""

    @property
    def bits(self) -> int: ...

    @property
    def group_size(self) -> int: ...

    @property
    def per_tensor(self) -> bool: ...

    @property
    def scale_bits(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TileSizes:
    """Bytes of the values of one tile, by the column that holds them; 0: the column is null."""

    codes: int
    scales: int = 0
    mins: int = 0
    scale_codes: int = 0
    min_codes: int = 0
    codebook: int = 0
    col_scale: int = 0
    bias_correction: int = 0

    def columns(self) -> tuple[int, ...]:
        """All of them, in this order; `astuple` takes as long as quantizing some thousand weights."""
        return (
            self.codes, self.scales, self.mins, self.scale_codes, self.min_codes, self.codebook,
            self.col_scale, self.bias_correction,
        )  # fmt: skip

    @property
    def payload(self) -> int:
        return sum(self.columns())


def row_stride(cols: int, bits: int) -> int:
    """Bytes of one row of dense codes; rows start on a byte."""
    return -(-cols * bits // 8)


def groups_in_row(cols: int, group_size: int) -> int:
    """Groups of one row, the last one possibly shorter. `group_size` 0: the row is one group."""
    return -(-cols // group_size) if group_size else 1


def raw_tile(nbytes: int) -> TileSizes:
    """Sizes of a tile of a tensor that is kept as it was."""
    return TileSizes(nbytes)


def quantized_tile(codec: str, rows: int, cols: int, how: Coding) -> TileSizes:
    """Sizes of a tile of `rows` x `cols` weights."""
    return _CODECS[codec](rows, cols, how)


def _scales(rows: int, cols: int, how: Coding) -> int:
    return SCALE_BYTES * (1 if how.per_tensor else rows * groups_in_row(cols, how.group_size))


def _affine(rows: int, cols: int, how: Coding) -> TileSizes:
    scales = _scales(rows, cols, how)
    return TileSizes(rows * row_stride(cols, how.bits), scales=scales, mins=scales)


def _symmetric(rows: int, cols: int, how: Coding) -> TileSizes:
    return TileSizes(rows * row_stride(cols, how.bits), scales=_scales(rows, cols, how))


def _superblock(rows: int, cols: int, how: Coding) -> TileSizes:
    steps = SCALE_BYTES * rows * groups_in_row(cols, SUPER_BLOCK)
    packed = rows * row_stride(groups_in_row(cols, how.group_size), how.scale_bits)
    codes = rows * row_stride(cols, how.bits)
    return TileSizes(codes, scales=steps, mins=steps, scale_codes=packed, min_codes=packed)


def _codebook(rows: int, cols: int, how: Coding) -> TileSizes:
    codes, table = rows * row_stride(cols, how.bits), SINGLE_BYTES << how.bits
    return TileSizes(codes, scales=_scales(rows, cols, how), codebook=table)


def _trellis(rows: int, cols: int, how: Coding) -> TileSizes:
    """Rows are circles of whole bytes that hold at least one window."""
    whole = math.lcm(8, how.bits)
    bits = -(-max(cols * how.bits, TRELLIS_WINDOW) // whole) * whole
    return TileSizes(rows * bits // 8, scales=SCALE_BYTES * rows)


_CODECS: dict[str, Callable[[int, int, Coding], TileSizes]] = {
    "affine_u": _affine,
    "sym_s": _symmetric,
    "superblock": _superblock,
    "codebook": _codebook,
    "trellis": _trellis,
}

"""What each codec stores of a tile, and its way back to weights, in NumPy.

    affine_u    w = scale * q + min
    sym_s       w = scale * (q - 2^(bits - 1))
    superblock  w = s * L(q) + c,  s and c being codes times the steps of a super-block
    codebook    w = scale * codebook[q]
    trellis     w = scale * L(window of 12 bits), see trellis

in float32, halves being widened. Products are exact and the sum is rounded once, so every correct
reader gives the same bits. A codec that is added is one entry of CODECS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arrowquant.artifact import decode, trellis
from arrowquant.artifact.rotation import unrotate
from arrowquant.artifact.tile import Layout, Tile, groups_in_row

Rows = NDArray[np.float32]

SUPER_BLOCK: Final = 256  #: weights that share a pair of steps
_UPPER_LEVELS: Final = {
    2: (2, 7),
    3: (5, 16, 29, 45),
    4: (7, 20, 34, 49, 65, 84, 104, 127),
}


@dataclass(frozen=True, slots=True)
class Codec:
    """One codec.

    version  the format's, from which on it is there
    items    of every column that it has, how many; its other columns are null
    decode   rows [start, stop) of a tile to a C-contiguous (rows, cols) array
    problem  what is wrong with widths and groups, or nothing
    """

    version: int
    items: Mapping[str, Callable[[Layout], int]]
    decode: Callable[[Tile, int, int, Rows], None]
    problem: Callable[[Layout], str]


def decode_rows(tile: Tile, start: int, stop: int, out: Rows) -> None:
    """The weights of rows [start, stop) of a quantized tile, written to (rows, cols)."""
    CODECS[tile.codec].decode(tile, start, stop, out)
    if tile.rotation is not None:
        unrotate(out, tile.rotation)
    if tile.col_scale is not None:
        out /= tile.col_scale


def _scales(layout: Layout) -> int:
    return 1 if layout.group_size < 0 else layout.rows * groups_in_row(layout)


def _steps(layout: Layout) -> int:
    return layout.rows * -(-layout.cols // SUPER_BLOCK)


def _scale_bytes(layout: Layout) -> int:
    return layout.rows * _stride(groups_in_row(layout), layout.scale_bits)


def _stride(count: int, bits: int) -> int:
    return (count * bits + 7) // 8


def _decode_groups(tile: Tile, start: int, stop: int, out: Rows) -> None:
    if tile.codebook is None:
        zero = 1 << (tile.bits - 1) if tile.codec == "sym_s" else 0
        levels = decode.counting(tile.bits, zero)
    else:
        levels = tuple(tile.codebook.tolist())
    decode.unpack(tile.codes[start:stop], tile.bits, levels, out)
    for halves, apply in ((tile.scales, np.multiply), (tile.mins, np.add)):
        if halves is None:
            continue
        if tile.group_size < 0:
            apply(out, np.float32(halves[0]), out=out)
            continue
        each = halves.reshape(tile.rows, -1)[start:stop].astype(np.float32)
        _by_group(out, each, tile.group_size or tile.cols, apply)


def _decode_superblock(tile: Tile, start: int, stop: int, out: Rows) -> None:
    upper = _UPPER_LEVELS[tile.bits]
    levels = tuple(float(level) for level in (*(-level for level in reversed(upper)), *upper))
    decode.unpack(tile.codes[start:stop], tile.bits, levels, out)
    digits = upper[-1].bit_length()
    width, zero = tile.scale_bits, 1 << (tile.scale_bits - 1)
    per_block = SUPER_BLOCK // tile.group_size
    for packed, steps, first, grain, apply in (
        (tile.scale_codes, tile.scales, 0, 2.0 ** -(width + digits), np.multiply),
        (tile.min_codes, tile.mins, zero, 2.0 ** -(width - 1), np.add),
    ):
        assert packed is not None
        assert steps is not None
        each = np.empty((stop - start, tile.groups), np.float32)
        rows = packed.reshape(tile.rows, -1)[start:stop]
        decode.unpack(rows, width, decode.counting(width, first), each)
        step = steps.reshape(tile.rows, -1)[start:stop].astype(np.float32) * np.float32(grain)
        each *= np.repeat(step, per_block, axis=1)[:, : tile.groups]
        _by_group(out, each, tile.group_size, apply)


def _decode_trellis(tile: Tile, start: int, stop: int, out: Rows) -> None:
    assert tile.scales is not None
    trellis.decode(tile.codes[start:stop], tile.scales[start:stop], tile.bits, out)


def _by_group(out: Rows, each: Rows, size: int, apply: np.ufunc) -> None:
    """Apply each group's number (rows, groups) to its weights, in place."""
    rows, cols = out.shape
    whole = cols // size
    body = out[:, : whole * size].reshape(rows, whole, size)
    apply(body, each[:, :whole, None], out=body)
    if whole < each.shape[1]:
        tail = out[:, whole * size :]
        apply(tail, each[:, whole:], out=tail)


def _no_scale_bits(layout: Layout) -> str:
    return f"scale_bits is {layout.scale_bits}, expected none" if layout.scale_bits else ""


def _superblock_problem(layout: Layout) -> str:
    if layout.bits not in _UPPER_LEVELS:
        return f"{layout.bits} bits do not go with codec superblock"
    if layout.group_size not in (16, 32):
        return f"groups of {layout.group_size} do not go with codec superblock"
    if layout.scale_bits not in (4, 6):
        return f"scale_bits is {layout.scale_bits}, expected 4 or 6"
    return ""


def _trellis_problem(layout: Layout) -> str:
    if layout.bits not in trellis.BITS:
        return f"{layout.bits} bits do not go with codec trellis"
    if layout.group_size:
        return f"groups of {layout.group_size} do not go with codec trellis"
    need = trellis.row_bytes(layout.cols, layout.bits)
    if layout.stride != need:
        return f"rows of {layout.stride} bytes of codec trellis, need {need}"
    return _no_scale_bits(layout)


CODECS: Final[dict[str, Codec]] = {
    "affine_u": Codec(1, {"scales": _scales, "mins": _scales}, _decode_groups, _no_scale_bits),
    "sym_s": Codec(1, {"scales": _scales}, _decode_groups, _no_scale_bits),
    "superblock": Codec(
        2,
        {"scales": _steps, "mins": _steps, "scale_codes": _scale_bytes, "min_codes": _scale_bytes},
        _decode_superblock,
        _superblock_problem,
    ),
    "codebook": Codec(
        2,
        {"scales": _scales, "codebook": lambda layout: 1 << layout.bits},
        _decode_groups,
        _no_scale_bits,
    ),
    "trellis": Codec(2, {"scales": _scales}, _decode_trellis, _trellis_problem),
}
RAW: Final = "raw"

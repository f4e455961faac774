"""Codes back to weights, in NumPy.

    affine_u   w = scale * q + min
    sym_s      w = scale * (q - 2^(bits - 1))

in float32, scale and min being float16 values widened. The product is exact and the sum is
rounded once, so every correct reader gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from arrowquant.artifact.parts import Tile

BLOCK_WEIGHTS = 2**18  #: weights decoded at a time: 1 MiB of float32, which stays in cache

# The float32 weights of one byte seen as one item, so that one look-up gives them all.
_ITEM: dict[int, str] = {1: "V32", 2: "c16", 4: "c8"}


def blocks(rows: int, cols: int, limit: int = BLOCK_WEIGHTS) -> Iterator[tuple[int, int]]:
    """Row ranges of about `limit` weights, at least one row each."""
    step = max(1, limit // max(cols, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def decode_rows(tile: Tile, start: int, stop: int, out: NDArray[np.float32]) -> None:
    """Decode rows [start, stop) of a quantized tile into a C-contiguous (rows, cols) array."""
    assert tile.scales is not None
    zero = 0 if tile.codec == "affine_u" else 1 << (tile.bits - 1)
    _unpack(tile.codes[start:stop], tile.bits, zero, out)
    groups, cols = tile.groups, tile.cols
    if tile.group_size < 0:
        out *= np.float32(tile.scales[0])
        if tile.mins is not None:
            out += np.float32(tile.mins[0])
        return
    size = tile.group_size or cols
    whole = cols // size
    body = out[:, : whole * size].reshape(stop - start, whole, size)
    tail = out[:, whole * size :]
    for halves, apply in ((tile.scales, np.multiply), (tile.mins, np.add)):
        if halves is None:
            continue
        each = halves[start * groups : stop * groups].astype(np.float32)
        each = each.reshape(stop - start, groups)
        apply(body, each[:, :whole, None], out=body)
        if whole < groups:
            apply(tail, each[:, whole:], out=tail)


def _unpack(codes: NDArray[np.uint8], bits: int, zero: int, out: NDArray[np.float32]) -> None:
    """q - zero as float32. Wide rows are taken in pieces, so temporary memory stays small."""
    rows, cols = out.shape
    step = max(8, BLOCK_WEIGHTS // rows // 8 * 8)  # eight codes end on a byte at any width
    for left in range(0, cols, step):
        right = min(left + step, cols)
        piece = codes[:, left * bits // 8 : (right * bits + 7) // 8]
        _unpack_piece(piece, bits, zero, out[:, left:right])


def _unpack_piece(codes: NDArray[np.uint8], bits: int, zero: int, out: NDArray[np.float32]) -> None:
    cols = out.shape[1]
    if bits == 8:
        np.subtract(codes, np.float32(zero), out=out, dtype=np.float32)
    elif bits in _ITEM:
        table = _table(bits, zero)
        # A byte is always inside the table: mode "clip" only spares NumPy a slow check.
        if out.flags.c_contiguous and cols * bits == 8 * codes.shape[1]:
            np.take(table, codes, out=out.view(table.dtype), mode="clip")
        else:
            values = np.take(table, codes, mode="clip").view(np.float32)
            np.copyto(out, values[:, :cols])
    else:
        _unpack_words(codes, bits, zero, out)


def _unpack_words(codes: NDArray[np.uint8], bits: int, zero: int, out: NDArray[np.float32]) -> None:
    """Any width: eight codes are `bits` bytes, read as one 64-bit word."""
    rows, cols = out.shape
    words = -(-cols // 8)
    padded = np.zeros((rows, words * bits), np.uint8)
    padded[:, : codes.shape[1]] = codes
    lanes = padded.reshape(rows, words, bits)
    word = np.zeros((rows, words), np.uint64)
    for byte in range(bits):
        word |= lanes[:, :, byte].astype(np.uint64) << np.uint64(8 * byte)
    mask = np.uint64((1 << bits) - 1)
    for lane in range(8):
        target = out[:, lane::8]
        values = (word >> np.uint64(lane * bits)) & mask
        np.subtract(values[:, : target.shape[1]].astype(np.float32), np.float32(zero), out=target)


@lru_cache(maxsize=32)
def _table(bits: int, zero: int) -> NDArray[Any]:
    """For every byte, the float32 values of its codes, lowest bits first."""
    byte = np.arange(256)[:, None]
    codes = (byte >> np.arange(0, 8, bits)) & ((1 << bits) - 1)
    values = (codes - zero).astype(np.float32)
    return values.view(_ITEM[bits]).reshape(256)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bit patterns of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
    result = (rounded >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        result[nan] = (bits[nan] >> 16).astype(np.uint16) | 0x0040
    return result


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 bit patterns as float32; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)

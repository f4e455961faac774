"""Packed codes to numbers, in NumPy; what the numbers mean is in `codecs`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Levels = tuple[float, ...]  #: the number that each code stands for

BLOCK_WEIGHTS = 2**18  #: weights decoded at a time: 1 MiB of float32, which stays in cache

# The float32 weights of one byte seen as one item, so that one look-up gives them all.
_ITEM: dict[int, str] = {1: "V32", 2: "c16", 4: "c8", 8: "f4"}


def blocks(rows: int, cols: int, limit: int = BLOCK_WEIGHTS) -> Iterator[tuple[int, int]]:
    """Row ranges of about `limit` weights, at least one row each."""
    step = max(1, limit // max(cols, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


@lru_cache(maxsize=32)
def counting(bits: int, zero: int) -> Levels:
    """The levels q - zero."""
    return tuple(float(q - zero) for q in range(1 << bits))


def unpack(codes: NDArray[np.uint8], bits: int, levels: Levels, out: NDArray[np.float32]) -> None:
    """The levels of packed codes (rows, stride), written to (rows, cols).

    Wide rows are taken in pieces, so temporary memory stays small.
    """
    rows, cols = out.shape
    step = max(8, BLOCK_WEIGHTS // rows // 8 * 8)  # eight codes end on a byte at any width
    for left in range(0, cols, step):
        right = min(left + step, cols)
        piece = codes[:, left * bits // 8 : (right * bits + 7) // 8]
        _unpack_piece(piece, bits, levels, out[:, left:right])


def _unpack_piece(
    codes: NDArray[np.uint8], bits: int, levels: Levels, out: NDArray[np.float32]
) -> None:
    cols = out.shape[1]
    if bits in _ITEM:
        table = _table(bits, levels)
        # A byte is always inside the table: mode "clip" only spares NumPy a slow check.
        if out.flags.c_contiguous and cols * bits == 8 * codes.shape[1]:
            np.take(table, codes, out=out.view(table.dtype), mode="clip")
        else:
            values = np.take(table, codes, mode="clip").view(np.float32)
            np.copyto(out, values[:, :cols])
    else:
        _unpack_words(codes, bits, levels, out)


def _unpack_words(
    codes: NDArray[np.uint8], bits: int, levels: Levels, out: NDArray[np.float32]
) -> None:
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
    table = np.array(levels, np.float32)
    for lane in range(8):
        target = out[:, lane::8]
        values = ((word >> np.uint64(lane * bits)) & mask).astype(np.intp)
        np.copyto(target, np.take(table, values[:, : target.shape[1]], mode="clip"))


@lru_cache(maxsize=32)
def _table(bits: int, levels: Levels) -> NDArray[Any]:
    """For every byte, the float32 values of its codes, lowest bits first."""
    byte = np.arange(256)[:, None]
    codes = (byte >> np.arange(0, 8, bits)) & ((1 << bits) - 1)
    values = np.ascontiguousarray(np.array(levels, np.float32)[codes])
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

"""Trellis codes to weights, in NumPy: v = scale L(W) / 1024, exact in float32.

W is a window of 12 bits of the circle that a row's codes are, and L a formula; both are in the
format's description.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_WINDOW = 12
_COUNT = 1 << _WINDOW
_POLYNOMIAL = 0x1053  # x^12 + x^6 + x^4 + x + 1
_FACTORS = {2: 0xC52, 3: 0xE29, 4: 0xDEE}
_STEP = {2: (4, 1), 3: (8, 3), 4: (2, 1)}  # codes that fill whole bytes, and these bytes

BITS = tuple(_FACTORS)  #: widths that there are


def row_bytes(cols: int, bits: int) -> int:
    """Bytes of the codes of a row: whole ones, and at least a window."""
    codes, size = _STEP[bits]
    return -(-max(cols, _WINDOW // bits) // codes) * size


@lru_cache
def levels(bits: int) -> NDArray[np.float32]:
    """L(W) / 1024 of every window, float32 (4096,), read-only."""
    windows, factor = np.arange(_COUNT), _FACTORS[bits]
    product = np.zeros_like(windows)
    for bit in range(_WINDOW):
        product ^= (windows >> bit & 1) * factor
        factor <<= 1
        factor ^= _POLYNOMIAL if factor >> _WINDOW else 0
    p = (2 * product + 1) / (2 * _COUNT)
    upper, lower = (np.sqrt(np.sqrt(np.sqrt(part))) for part in (p, 1 - p))
    level = np.rint(5517 * (upper - lower)).astype(np.int16)  # an integer: there is no -0
    found: NDArray[np.float32] = level.astype(np.float32) / np.float32(1024)
    found.flags.writeable = False
    return found


def decode(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], bits: int, out: NDArray[np.float32]
) -> None:
    """The weights of packed codes (rows, row_bytes), written to (rows, cols).

    scales  one for each row
    """
    many, size = _STEP[bits]
    reach = -(-((many - 1) * bits + _WINDOW) // 8)  # bytes that the windows of one step are in
    circle = np.concatenate([codes, codes[:, : reach - size]], axis=1)
    steps = -(-out.shape[1] // many)
    word = np.zeros((codes.shape[0], steps), np.uint32 if reach <= 4 else np.uint64)
    for byte in range(reach):
        lane = circle[:, byte::size][:, :steps].astype(word.dtype)
        word |= lane << word.dtype.type(8 * byte)
    table, mask = levels(bits), word.dtype.type(_COUNT - 1)
    factors = scales.astype(np.float32)[:, None]
    for code in range(many):
        target = out[:, code::many]
        window = (word[:, : target.shape[1]] >> word.dtype.type(code * bits)) & mask
        np.multiply(table[window], factors, out=target)

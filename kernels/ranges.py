"""Smallest and largest weight, found on ordered integer keys.

A float32 read as int32 is ordered like the float once the lower 31 bits of negative numbers are
inverted. Integer minima vectorise without any fast-math promise, do not depend on the order, and
NaN and Inf show up as keys beyond those of the finite numbers, so the finite check is free.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.widen import first_nonfinite, widen_row

INF_KEY = 0x7F800000  # keys of finite numbers lie strictly between -INF_KEY - 1 and INF_KEY


@kernel
def key_range(w: NDArray[np.int32], start: int, stop: int) -> tuple[int, int]:
    """Smallest and largest key among w[start:stop], the float32 weights viewed as int32."""
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x80000000)
    for i in range(start, stop):
        bits = np.int32(w[i])
        key = np.int32(bits ^ np.int32(np.int32(bits >> 31) & 0x7FFFFFFF))
        low = min(low, key)
        high = max(high, key)
    return low, high


@kernel
def finite1(low: int, high: int) -> bool:
    """Whether keys from key_range belong to finite weights only."""
    return low > -INF_KEY - 1 and high < INF_KEY


@kernel
def unkey1(key: int) -> np.float32:
    """The float32 of a key; -0.0 becomes 0.0."""
    bits = np.int32(np.int64(key) ^ ((np.int64(key) >> 31) & 0x7FFFFFFF))
    return np.float32(bits.view(np.float32) + np.float32(0.0))


@kernel
def range_rows(x: NDArray[np.unsignedinteger], kind: int, out: NDArray[np.float32]) -> int:
    """Write min and max of all of x (rows, cols) to out (2,).

    Result  row-major index of the first NaN or Inf (out is then meaningless), or -1
    """
    rows, cols = x.shape
    w = np.empty(cols, np.float32)
    low, high = 0x7FFFFFFF, -0x80000000
    for r in range(rows):
        widen_row(x[r], kind, w)
        row_low, row_high = key_range(w.view(np.int32), 0, cols)
        if not finite1(row_low, row_high):
            return r * cols + first_nonfinite(w)
        low = min(low, row_low)
        high = max(high, row_high)
    out[0] = unkey1(low)
    out[1] = unkey1(high)
    return -1

"""Smallest and largest weight, found on ordered integer keys.

A float32 read as int32 is ordered like the float once the lower 31 bits of negative numbers are
inverted. Integer minima vectorise without any fast-math promise, do not depend on the order, and
NaN and Inf show up as keys beyond those of the finite numbers, so the finite check is free.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel
from kernels.lanes import key_range_lanes
from kernels.widen import first_nonfinite, padded, widen_row

INF_KEY = 0x7F800000  # keys of finite numbers lie strictly between -INF_KEY - 1 and INF_KEY


@inlined
def key_range(w: NDArray[np.float32], start: Integer, stop: Integer) -> tuple[Integer, Integer]:
    """Smallest and largest key among the weights w[start:stop], of an array with room to the end of
    the last turn, see widen.padded."""
    return key_range_lanes(w, start, stop)


@inlined
def finite1(low: Integer, high: Integer) -> bool:
    """Whether keys from key_range belong to finite weights only."""
    return bool(low > -INF_KEY - 1 and high < INF_KEY)


@inlined
def unkey1(key: Integer) -> np.float32:
    """The float32 of a key; -0.0 becomes 0.0."""
    sign = np.int32(np.int32(key) >> 31)
    bits = np.int32(np.int32(key) ^ np.int32(sign & 0x7FFFFFFF))
    return np.float32(bits.view(np.float32) + np.float32(0.0))


@inlined
def group_ranges(
    w: NDArray[np.float32], group: int, lo: NDArray[np.float32], hi: NDArray[np.float32]
) -> bool:
    """Write min and max of each group of a row w (cols,) to lo and hi (groups,).

    Result  whether all weights are finite; if not, lo and hi mean nothing
    """
    lows, highs = lo.view(np.int32), hi.view(np.int32)
    finite = True
    for g in range(lo.size):
        low, high = key_range(w, g * group, min((g + 1) * group, w.size))
        finite &= finite1(low, high)
        lows[g], highs[g] = low, high
    for g in range(lo.size):
        lo[g], hi[g] = unkey1(lows[g]), unkey1(highs[g])
    return finite


@kernel
def range_rows(x: NDArray[np.unsignedinteger], kind: int, out: NDArray[np.float32]) -> int:
    """Write min and max of all of x (rows, cols) to out (2,).

    Result  row-major index of the first NaN or Inf (out is then meaningless), or -1
    """
    rows, cols = x.shape
    w = np.empty(padded(cols), np.float32)[:cols]
    low: Integer = 0x7FFFFFFF
    high: Integer = -0x80000000
    for r in range(rows):
        widen_row(x[r], kind, w)
        row_low, row_high = key_range(w, 0, cols)
        if not finite1(row_low, row_high):
            return int(r * cols + first_nonfinite(w))
        low = min(low, row_low)
        high = max(high, row_high)
    out[0] = unkey1(low)
    out[1] = unkey1(high)
    return -1

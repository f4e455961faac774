"""What smoothing does with a matrix besides rounding it: looks at its columns, and multiplies them.

The magnitudes of stored weights are ordered as their patterns without the sign are, so the largest of a column
is found on integers, two bytes a weight; NaN and Inf are above all others.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_rows
from kernels.ranges import group_ranges
from kernels.widen import KINDS, Dtype, padded, patterns, widen, widen_row


@kernel
def _largest_rows(
    x: NDArray[np.unsignedinteger], mask: np.unsignedinteger, out: NDArray[np.unsignedinteger]
) -> None:
    for r in range(x.shape[0]):
        row = x[r]
        for c in range(out.size):
            out[c] = max(out[c], row[c] & mask)


def column_largest(x: NDArray[np.generic], *, dtype: Dtype) -> NDArray[np.float32]:
    """The largest |w| of every column, float32 (cols,); not finite where one is not.

    x   (rows, cols) as for engine.quantize
    """
    bits = patterns(x, dtype)
    found = np.zeros(bits.shape[1], bits.dtype)
    _largest_rows(bits, bits.dtype.type(np.iinfo(bits.dtype).max >> 1), found)
    return widen(np.atleast_2d(found), dtype).reshape(-1)


@kernel
def _multiplied_rows(
    x: NDArray[np.unsignedinteger], kind: int, s: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    for r in range(x.shape[0]):
        y = out[r]
        widen_row(x[r], kind, y)
        for c in range(s.size):
            y[c] *= s[c]


def multiplied(
    x: NDArray[np.generic], scale: NDArray[np.float32], *, dtype: Dtype, threads: int = 1
) -> NDArray[np.float32]:
    """W diag(s), float32 (rows, cols), a new array, every number rounded once.

    x      (rows, cols) as for engine.quantize
    scale  float32 (cols,)
    """
    bits, out = patterns(x, dtype), np.empty(x.shape, np.float32)

    def work(part: slice) -> int:
        _multiplied_rows(bits[part], KINDS[dtype], scale, out[part])
        return -1

    over_rows(work, x.shape[0], x.shape[1], threads)
    return out


@kernel
def _spread_rows(
    w: NDArray[np.float32], s: NDArray[np.float32], group: int, out: NDArray[np.float64]
) -> None:
    cols = w.shape[1]
    wide = np.zeros(padded(cols), np.float32)
    y = wide[:cols]
    lo, hi = np.empty(out.size, np.float32), np.empty(out.size, np.float32)
    for r in range(w.shape[0]):
        for c in range(cols):
            y[c] = w[r, c] * s[c]
        group_ranges(y, group, lo, hi)
        for g in range(out.size):
            spread = np.float64(hi[g]) - np.float64(lo[g])
            out[g] += spread * spread


def squared_ranges(
    w: NDArray[np.float32], scale: NDArray[np.float32], group: int
) -> NDArray[np.float64]:
    """Of W diag(s): the squared range of each group, summed over rows, float64 (groups,).

    w      float32 (rows, cols), finite
    scale  float32 (cols,)
    group  weights of a row in a group, the last one may be shorter; 0: all
    """
    size = group or w.shape[1]
    found = np.zeros(-(-w.shape[1] // size))
    _spread_rows(w, scale, size, found)
    return found

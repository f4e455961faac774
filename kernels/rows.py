"""A block of rows from bit patterns to packed codes, one row at a time while it is in cache.

Each row goes through the same phases: widen, range of each group, scales and minima, codes and
errors, pack. A phase works on the whole row, which keeps the slow scalar arithmetic of the scales
off the critical path.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel, uncounted
from kernels.bitpack import pack_row
from kernels.encode import Scratch, encode_row, scratch_for, weigh_row
from kernels.fidelity import W2, WQ
from kernels.lsq import FITS, refine_row
from kernels.minmax import params_row
from kernels.ranges import finite1, group_ranges, key_range
from kernels.unbiased import factor1, stretch_row
from kernels.widen import first_nonfinite, padded, widen_row


@kernel
def quantize_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    slopes: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    unbias: float,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
    weighted: NDArray[np.float64],
) -> int:
    """Quantize a block of rows in groups.

    x            patterns (rows, cols) of the given kind, see widen
    group        weights per group, a multiple of 8 or at least cols; the last one may be shorter
    slopes       float32 (candidates,), see lsq.slopes_for; empty for min-max without search
    importance   float32 (cols,), see importance, or None
    unbias       strength of the correction in unbiased; 0 for none
    codes        uint8 (rows, ceil(cols * bits / 8)), written
    scales       halves as uint16 (rows, groups), written
    mins         the same; (rows, 0) when symmetric
    sums         float64 (rows, COLUMNS), written
    weighted     the same sums by importance; not used without importances
    Result       row-major index of the first NaN or Inf (what is written then is meaningless),
                 or -1
    """
    cols, groups = x.shape[1], scales.shape[1]
    w = np.zeros(padded(cols), np.float32)[:cols]
    image = np.zeros(padded(cols), np.float32)[:cols]
    q = np.zeros(padded(cols), np.uint8)
    ranges = np.empty((2, groups), np.float32)
    before = np.empty((2, groups), np.uint16)
    fits, found = np.empty((FITS, groups), np.float64), np.empty((2, groups), np.uint16)
    return quantize_each(
        x, kind, bits, group, symmetric, slopes, importance, unbias, codes, scales, mins, sums,
        weighted, w, image, q, ranges[0], ranges[1], before[0], before[1, : mins.shape[1]],
        fits, found, scratch_for(groups),
    )  # fmt: skip


@uncounted
def quantize_each(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    slopes: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    unbias: float,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
    weighted: NDArray[np.float64],
    w: NDArray[np.float32],
    image: NDArray[np.float32],
    q: NDArray[np.uint8],
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    code_scales: NDArray[np.uint16],
    code_mins: NDArray[np.uint16],
    fits: NDArray[np.float64],
    found: NDArray[np.uint16],
    scratch: Scratch,
) -> int:
    """quantize_rows with the arrays that one row after the other goes through."""
    rows, cols = x.shape
    for r in range(rows):
        ahead = x[min(r + 1, rows - 1)]
        widen_row(x[r], kind, w)
        if not group_ranges(w, group, lo, hi):
            return int(r * cols + first_nonfinite(w))
        params_row(lo, hi, bits, symmetric, scales[r], mins[r])
        if slopes.size > 0:
            refine_row(
                w, importance, group, lo, hi, bits, symmetric, slopes, scales[r], mins[r], image,
                fits, found,
            )  # fmt: skip
        s, m = scales[r], mins[r]
        encode_row(w, group, bits, symmetric, s, m, s, m, scratch, ahead, q, sums[r])
        total = sums[r]
        if importance is not None:
            total = weighted[r]
            weigh_row(w, importance, group, bits, symmetric, s, m, s, m, total)
        factor = factor1(total[W2], total[WQ], np.float64(unbias))
        if factor != 1.0:
            stretch_row(s, factor, code_scales)
            stretch_row(m, factor, code_mins)
            encode_row(
                w, group, bits, symmetric, code_scales, code_mins, s, m, scratch, ahead, q, sums[r]
            )
            if importance is not None:
                weigh_row(
                    w, importance, group, bits, symmetric, code_scales, code_mins, s, m, total
                )
        pack_row(q, bits, codes[r])
    return -1


@kernel
def quantize_rows_fixed(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    symmetric: bool,
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> int:
    """Quantize a block of rows with one scale (1,) and minimum (1,), or (0,) when symmetric.

    Weights beyond the range these cover are clipped. Other arguments and result as quantize_rows.
    """
    cols = x.shape[1]
    w = np.zeros(padded(cols), np.float32)[:cols]
    q = np.zeros(padded(cols), np.uint8)
    return _quantize_each_fixed(
        x, kind, bits, symmetric, scales, mins, codes, sums, w, q, scratch_for(1)
    )


@uncounted
def _quantize_each_fixed(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    symmetric: bool,
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    sums: NDArray[np.float64],
    w: NDArray[np.float32],
    q: NDArray[np.uint8],
    scratch: Scratch,
) -> int:
    """quantize_rows_fixed with the arrays that one row after the other goes through."""
    rows, cols = x.shape
    for r in range(rows):
        ahead = x[min(r + 1, rows - 1)]
        widen_row(x[r], kind, w)
        low, high = key_range(w, 0, cols)
        if not finite1(low, high):
            return int(r * cols + first_nonfinite(w))
        encode_row(w, cols, bits, symmetric, scales, mins, scales, mins, scratch, ahead, q, sums[r])
        pack_row(q, bits, codes[r])
    return -1

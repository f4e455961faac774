"""Round to nearest over the range of each group.

Asymmetric, Q = 2^bits - 1:   m = largest half <= min w,   s = half((max w - m) / Q)
    Rounding m down keeps groups that sit far from zero (norm weights around 1) inside the range.
Symmetric, h = 2^(bits - 1), codes -h .. h - 1:   s = half(-x / h), x the weight of largest size
    The largest extreme gets code -h, so s is negative when it is positive; the other extreme is
    off by up to one step. On weights like those of language models the usual |x| / (h - 1) is
    worse by 1.1 dB at 4 bits and 4.6 dB at 2, for it spends a code less.
Scales are rounded to nearest, or outwards when subnormal. What exceeds float16 is saturated to
+-65504, which makes the error large instead of making the values infinite; it is for the caller's
quality gate to keep such a tensor as it is.

Constant groups with value c:
    asymmetric   m = half(c), s = half(c - m), code 1 (or s = 0, code 0 when c is a half): exact
                 for halves, else within 2 float32 ulp or 2^-25, whichever is larger
    symmetric    the code n and s = half(c / n) with the smallest error; n = 1 when c is a half
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, uncounted
from kernels.half import half_down1, half_nearest1, half_outward1, single1


@inlined
def asymmetric1(lo: np.float32, hi: np.float32, bits: int) -> tuple[Integer, Integer]:
    """Scale and minimum, as halves, for weights in lo .. hi (finite)."""
    if lo == hi:
        low = half_nearest1(lo)
        return half_nearest1(np.float32(lo - single1(low))), low
    low = half_down1(lo)
    step = (np.float64(hi) - np.float64(single1(low))) / ((1 << bits) - 1)
    return half_outward1(np.float32(step)), low


@uncounted
def constant1(value: np.float32, bits: int) -> Integer:
    """Scale, as a half, whose best multiple is closest to value; see the module's rule."""
    half = 1 << (bits - 1)
    best: Integer = 0
    best_error = np.inf
    for step in range(1, half + 1):
        count = -half if step == half else step
        scale = half_nearest1(np.float32(np.float64(value) / count))
        error = abs(np.float64(single1(scale)) * count - np.float64(value))
        if error < best_error:
            best, best_error = scale, error
    return best


@inlined
def symmetric1(lo: np.float32, hi: np.float32, bits: int) -> Integer:
    """Scale, as a half, for weights in lo .. hi (finite)."""
    if lo == hi:
        return constant1(lo, bits)
    extreme = hi if hi > -lo else lo
    return half_outward1(np.float32(-extreme / np.float32(1 << (bits - 1))))


@inlined
def params_row(
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    bits: int,
    symmetric: bool,
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
) -> None:
    """Write scales and mins (groups,), as halves, for groups spanning lo .. hi (groups,).

    mins is left alone when symmetric.
    """
    for g in range(lo.size):
        if symmetric:
            scales[g] = symmetric1(lo[g], hi[g], bits)
        else:
            scales[g], mins[g] = asymmetric1(lo[g], hi[g], bits)

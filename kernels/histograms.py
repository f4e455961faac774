"""Uniform quantizers for activations, judged on a histogram of them.

A quantizer of b bits has a scale s and an integer zero point z, 0 <= z <= Q = 2^b - 1:

    q = clip(round(x / s) + z, 0, Q)        x' = s (q - z)

so that zero is always exact. With the density of x uniform within each bin, the mean of (x - x')^2 over a
bin [e0, e1] has a closed form. In units of the scale, u = x / s + z, the antiderivative of the squared
error is

    F(u) = n / 12 + (u - n)^3 / 3           n = clip(round(u), 0, Q)

(a whole cell of rounding contributes 1/12, and what is clipped is (u - n)^2 from the last level on), and the
bin costs s^2 (F(u1) - F(u0)) / (u1 - u0). Nothing is sampled, and a bin may be narrower or wider than the
scale. Bins reach at most from the smallest to the largest value that was seen.

The search shrinks the range: both ends together by steps of an eighth of an octave, then each alone by
finer ones.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Real, inlined, kernel, uncounted

STEPS = 28  # eighths of an octave: down to about a ninth of the range
FINE = (1.09, 1.045, 1.022, 0.978, 0.957, 0.917)  # of one end, sixteenths of an octave and less
ROUNDS = 3


@inlined
def primitive1(u: Real, top: Real) -> np.float64:
    """F of the docstring at u, in levels, for levels 0 .. top."""
    n = min(max(np.rint(u), 0.0), top)
    d = u - n
    return np.float64(n * (1.0 / 12.0) + d * d * d * (1.0 / 3.0))


@uncounted
def squared_error1(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: Real,
    high: Real,
    scale: Real,
    zero: Real,
    top: Real,
) -> np.float64:
    """Sum of (x - x')^2 over everything counted.

    edges      float64 (bins + 1,), ascending
    counts     float64 (bins,), how often or with what weight
    low, high  smallest and largest value seen; the outermost bins that are counted reach to them
    scale      > 0
    """
    total = 0.0
    inverse = 1.0 / scale
    for b in range(counts.size):
        if counts[b] == 0.0:
            continue
        e0 = low if b == 0 else min(max(edges[b], low), high)
        e1 = high if b == counts.size - 1 else min(max(edges[b + 1], low), high)
        u0, u1 = e0 * inverse + zero, e1 * inverse + zero
        width = u1 - u0
        if width > 1e-9 * (1.0 + abs(u0)):
            mean = (primitive1(u1, top) - primitive1(u0, top)) / width
        else:
            d = u0 - min(max(np.rint(u0), 0.0), top)
            mean = d * d
        total += counts[b] * mean
    return np.float64(total * scale * scale)


@uncounted
def rule1(
    low: Real, high: Real, bits: int, symmetric: bool
) -> tuple[np.float64, np.float64, np.float64]:
    """(scale, zero point, top code) of the range from low <= 0 to high >= 0; scale 1 for an empty one.

    The scale is a float32 value. symmetric: codes 1 .. Q around the zero point 2^(b-1).
    """
    top = float((1 << bits) - 1)
    if symmetric:
        zero = np.float64(1 << (bits - 1))
        scale = np.float64(np.float32(max(-low, high) / (zero - 1.0)))
    else:
        scale = np.float64(np.float32((high - low) / top))
        zero = np.float64(0.0)
        if scale > 0.0:
            zero = np.float64(min(max(np.rint(-low / scale), 0.0), top))
    return scale if scale > 0.0 else np.float64(1.0), zero, np.float64(top)


@uncounted
def _judged(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: Real,
    high: Real,
    lo: Real,
    hi: Real,
    bits: int,
    symmetric: bool,
) -> np.float64:
    scale, zero, top = rule1(lo, hi, bits, symmetric)
    return squared_error1(edges, counts, low, high, scale, zero, top)


@uncounted
def fit1(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: Real,
    high: Real,
    bits: int,
    symmetric: bool,
    clip: bool,
    fine: bool,
) -> tuple[np.float64, np.float64, np.float64]:
    """(scale, zero point, squared error) for one histogram.

    clip  search for the range of least squared error; else all that was seen fits
    fine  move each end alone, too
    """
    lo, hi = min(float(low), 0.0), max(float(high), 0.0)
    best = _judged(edges, counts, low, high, lo, hi, bits, symmetric)
    if clip and best > 0.0:
        wide_lo, wide_hi, factor = lo, hi, 1.0
        for _ in range(STEPS):
            factor *= 0.917004043204671  # 2^(-1/8)
            found = _judged(
                edges, counts, low, high, wide_lo * factor, wide_hi * factor, bits, symmetric
            )
            if found < best:
                best, lo, hi = found, wide_lo * factor, wide_hi * factor
        if fine:
            lo, hi, best = _moved(edges, counts, low, high, lo, hi, bits, symmetric, best)
    scale, zero, _ = rule1(lo, hi, bits, symmetric)
    return scale, zero, best


@uncounted
def _moved(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: Real,
    high: Real,
    lo: Real,
    hi: Real,
    bits: int,
    symmetric: bool,
    best: Real,
) -> tuple[np.float64, np.float64, np.float64]:
    """The range with each end moved alone while that helps, and its error."""
    for _ in range(ROUNDS):
        before = best
        for end in range(2):
            start = lo if end == 0 else hi
            for factor in FINE:
                one, other = (start * factor, hi) if end == 0 else (lo, start * factor)
                found = _judged(edges, counts, low, high, one, other, bits, symmetric)
                if found < best:
                    best, lo, hi = found, one, other
        if not best < before:
            break
    return np.float64(lo), np.float64(hi), np.float64(best)


@kernel
def fit_runs(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    bits: int,
    symmetric: bool,
    clip: bool,
    errors: NDArray[np.float64],
) -> None:
    """Squared error of one quantizer for every run of consecutive bins of time.

    counts       float64 (times, bins of the histogram)
    lows, highs  float64 (times,); a time at which nothing was seen has low > high
    errors       float64 (times, times + 1), written: [i, j] for times i <= t < j, 0 where nothing was seen
    """
    times, size = counts.shape
    merged = np.empty(size, np.float64)
    for i in range(times):
        merged[:] = 0.0
        low, high = np.inf, -np.inf
        for j in range(i, times):
            for b in range(size):
                merged[b] += counts[j, b]
            low, high = min(low, lows[j]), max(high, highs[j])
            errors[i, j + 1] = 0.0
            if low <= high:
                _, _, errors[i, j + 1] = fit1(
                    edges, merged, low, high, bits, symmetric, clip, False
                )


def quantizer(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: float,
    high: float,
    *,
    bits: int,
    symmetric: bool = False,
    clip: bool = True,
) -> tuple[np.float32, int, float]:
    """The quantizer of least squared error for a histogram: (scale, zero point, sum of squared errors).

    edges      float64 (bins + 1,), ascending, zero not inside a bin but the one around it
    counts     float64 (bins,), sum > 0: how often, or with what weight
    low, high  smallest and largest value
    bits       2 .. 16
    clip       False: the range holds low and high
    """
    scale, zero, error = fit1(edges, counts, low, high, bits, symmetric, clip, True)
    return np.float32(scale), int(zero), float(error)


def run_errors(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    *,
    bits: int,
    symmetric: bool = False,
    clip: bool = True,
) -> NDArray[np.float64]:
    """What one quantizer for times i .. j - 1 costs, float64 (times, times + 1); see fit_runs.

    Only bins that count anything take time. Entries with j <= i are 0.
    """
    times = counts.shape[0]
    errors = np.zeros((times, times + 1))
    used = np.flatnonzero(counts.any(axis=0))
    if used.size == 0:
        return errors
    first, last = int(used[0]), int(used[-1]) + 1
    fit_runs(
        edges[first : last + 1],
        np.ascontiguousarray(counts[:, first:last]),
        lows,
        highs,
        bits,
        symmetric,
        clip,
        errors,
    )
    return errors

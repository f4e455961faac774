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

The search shrinks the range: both ends together by steps of a quarter of an octave, then each alone by larger and
finer ones.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Real, inlined, kernel, uncounted

STEPS = 14  # quarters of an octave: down to about a ninth of the range
# Of one end: half an octave at most, an octave down.
FINE = (1.414, 1.189, 1.09, 1.045, 1.022, 0.978, 0.957, 0.917, 0.841, 0.707, 0.5)
ROUNDS = 3
# Of the grid on which runs of times are judged.
OCTAVES = 6
ASIDE = 2.5
FINE_BELOW, MERGED = 128.0, 8


@inlined
def primitive1(u: Real, top: Real) -> np.float64:
    """F of the docstring at u, in levels, for levels 0 .. top."""
    n = min(max(np.rint(u), 0.0), top)
    d = u - n
    return np.float64(n * (1.0 / 12.0) + d * d * d * (1.0 / 3.0))


@inlined
def mean1(u0: Real, f0: Real, u1: Real, f1: Real, top: Real) -> np.float64:
    """Mean squared error between u0 <= u1, in levels; f0 and f1 are F there."""
    width = u1 - u0
    if width > 1e-9 * (1.0 + np.abs(u0)):
        return np.float64((f1 - f0) / width)
    d = u0 - min(max(np.rint(u0), 0.0), top)
    return np.float64(d * d)


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
    low, high  smallest and largest value seen; the first bin and the last reach to them
    scale      > 0
    """
    total = 0.0
    inverse = 1.0 / scale
    u0 = np.float64(low * inverse + zero)
    f0 = primitive1(u0, top)
    for b in range(counts.size):
        e1 = float(high if b == counts.size - 1 else min(max(edges[b + 1], low), high))
        u1 = np.float64(e1 * inverse + zero)
        f1 = primitive1(u1, top)
        total += float(counts[b] * mean1(u0, f0, u1, f1, top))
        u0, f0 = u1, f1
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
            factor *= 0.8408964152537145  # 2^(-1/4)
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
    errors: NDArray[np.float64],
) -> None:
    """Squared error of the quantizer that holds all values, for every run of consecutive bins of time.

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
                    edges, merged, low, high, bits, symmetric, False, False
                )


@kernel
def grid_runs(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    low: float,
    high: float,
    ranges: NDArray[np.float64],
    bits: int,
    symmetric: bool,
    errors: NDArray[np.float64],
) -> None:
    """Least squared error of any quantizer of a grid, for every run of consecutive bins of time.

    The error of a quantizer is linear in the counts: it is summed for each time once, and that of a run is a
    difference of running sums.

    counts     float64 (bins of the histogram, times)
    low, high  smallest and largest value at any time
    ranges     float64 (quantizers, 2), low <= 0 <= high of each
    errors     float64 (times, times + 1), 0; written: [i, j] for times i <= t < j
    """
    size, times = counts.shape
    running = np.zeros(times + 1, np.float64)
    for c in range(len(ranges)):
        scale, zero, top = rule1(ranges[c, 0], ranges[c, 1], bits, symmetric)
        inverse = 1.0 / scale
        running[:] = 0.0
        u0 = low * inverse + zero
        f0 = primitive1(u0, top)
        for b in range(size):
            u1 = (high if b == size - 1 else min(max(edges[b + 1], low), high)) * inverse + zero
            f1 = primitive1(u1, top)
            mean = mean1(u0, f0, u1, f1, top) * (scale * scale)
            for t in range(times):
                running[t + 1] += counts[b, t] * mean
            u0, f0 = u1, f1
        for t in range(times):
            running[t + 1] += running[t]
        for i in range(times):
            for j in range(i + 1, times + 1):
                found = max(0.0, running[j] - running[i])
                if c == 0 or found < errors[i, j]:
                    errors[i, j] = found


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
    """What one quantizer for times i .. j - 1 costs, float64 (times, times + 1); see fit_runs and grid_runs.

    With `clip` the best of a grid of ranges is meant, the same for all runs, in eighths of an octave, one end up to
    two octaves below the other. So a run never costs less than its parts. Entries with j <= i are 0.
    """
    times = counts.shape[0]
    errors = np.zeros((times, times + 1))
    used = np.flatnonzero(counts.any(axis=0))
    if used.size == 0:
        return errors
    first, last = int(used[0]), int(used[-1]) + 1
    within = edges[first : last + 1]
    held = np.ascontiguousarray(counts[:, first:last])
    if not clip:
        fit_runs(within, held, lows, highs, bits, symmetric, errors)
        return errors
    low, high = float(lows.min()), float(highs.max())
    places = _coarse(within)
    merged = np.ascontiguousarray(np.add.reduceat(held, places[:-1], axis=1).T)
    ranges = _grid(min(low, 0.0), max(high, 0.0), symmetric)
    grid_runs(within[places], merged, low, high, ranges, bits, symmetric, errors)
    return errors


def _coarse(edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which edges to keep, first and last among them: all of the largest seven octaves, of what is smaller every
    eighth, and those around zero."""
    most = max(-edges[0], edges[-1])
    near = np.abs(edges) < most / FINE_BELOW
    places = np.arange(edges.size)
    from_zero = np.where(edges > 0, places - np.searchsorted(edges, 0.0), 0)
    from_zero = np.where(edges < 0, np.searchsorted(edges, 0.0) - 1 - places, from_zero)
    kept = ~near | (from_zero % MERGED == 0)
    kept[[0, -1]] = True
    return np.flatnonzero(kept)


def _grid(low: float, high: float, symmetric: bool) -> NDArray[np.float64]:
    """Ranges from the widest on down, float64 (quantizers, 2)."""
    if symmetric or low == 0.0 or high == 0.0:
        shares = 2.0 ** (-np.arange(16 * OCTAVES) / 16)
        return np.asarray(shares[:, None] * np.array([low, high]))
    shares = 2.0 ** (-np.arange(8 * OCTAVES) / 8)
    less = 2.0 ** -np.arange(0, ASIDE, 0.5)
    ends = [(low * each, high) for each in less] + [(low, high * each) for each in less[1:]]
    return np.asarray(shares[:, None, None] * np.array(ends)).reshape(-1, 2)

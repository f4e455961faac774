"""Scales and minima of a super-block, fitted together with the codes.

All groups of a super-block are worked on at once, one in each lane (see sweeps), on weights x scaled
by a power of two to about 1 and importances h of at most 1 (0 where a row ends early). The order of
all sums is fixed and fused operations are asked for by name, so every processor finds the same.

1. Search   Either end of the range of a group is moved by a few factors; for each, codes are rounded
            and s, c refitted to them by least squares. The best is kept.
2. Steps    d covers the largest s_j and dm the largest |c_j|, which gets the code -2^(bits - 1), so
            dm may be negative. Smaller steps were tried and are no better than 0.002 dB.
3. Codes    Weights are rounded with the S_j nearest to s_j / d and the M_j nearest to c_j / dm.
4. Again    d and dm are refitted to all codes of the super-block by least squares and rounded, and
            weights are rounded once more. Where codes of scales have 4 bits they are then rounded with
            M_j moved by the mean error that leaves, and with the S_j below and above, and all of it
            is done twice. Kept while the squared error falls.

Refits are corrections: with e what the current numbers leave, D = sum h sum h L^2 - (sum h L)^2,

    ds = (sum h sum h e L - sum h L sum h e) / D
    dc = (sum h L^2 sum h e - sum h L sum h e L) / D,  taking ds sum h e L + dc sum h e off the error

Source: Lloyd, Least squares quantization in PCM, 1982; coordinate descent over quantized scales.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, kernel
from kernels.half import half_nearest1, half_outward1, single1
from kernels.levels import Curve, largest_for
from kernels.sweeps import BEST, CENTRE, MOVED, SCALE, SUMS, TOTAL, TRIED, C, S, probe, refit
from kernels.vectors import STEP

# What of the lower and of the upper half of a range is kept, by bits and weights of a group: of a fine grid, those
# that lower the error most together, chosen one after the other on Gaussian and on heavy-tailed groups.
ENDS = {
    (4, 32): ((0.975, 0.975), (0.95, 1.025), (1.025, 0.95), (1.025, 1.0)),
    (4, 16): ((1.0, 1.0), (1.025, 0.95), (0.975, 1.025), (0.95, 1.125), (1.125, 0.95)),
    (3, 32): (
        *((0.95, 0.95), (1.0, 0.85), (0.85, 1.0), (0.9, 0.95), (0.95, 0.9), (1.1, 0.9)),
        (0.95, 1.1),
    ),
    (3, 16): ((0.95, 0.95), (0.9, 1.05), (1.05, 0.9), (1.05, 1.05), (0.95, 0.85), (0.9, 1.0)),
    (2, 32): (
        *((0.75, 0.75), (0.85, 0.6), (0.65, 0.9), (0.8, 0.7), (0.65, 0.8), (0.95, 0.55)),
        *((0.55, 0.95), (0.95, 0.9), (0.65, 0.6), (0.8, 0.9), (1.05, 0.75), (0.55, 0.75)),
        *((0.75, 0.6), (0.65, 0.7), (1.0, 0.5), (0.75, 1.05), (0.8, 0.5), (0.5, 0.8)),
        *((0.5, 1.0), (0.9, 0.75), (1.1, 0.65), (0.75, 0.95), (0.85, 0.85), (0.95, 0.7)),
    ),
    (2, 16): (
        *((0.8, 0.8), (0.7, 1.0), (1.0, 0.75), (0.75, 0.9), (1.05, 0.65), (0.95, 0.9)),
        (0.65, 1.1),
    ),
}
# Scale codes tried about the nearest; the second time with M moved. Of scale codes of 6 bits only the nearest is:
# another start gains more in as much time.
PROBES = (0.0, 0.0, -1.0, 1.0)


def starts_for(bits: int, items: int) -> NDArray[np.float32]:
    """First scales and centres for a range of -1 .. 1.

    Result  float32 (starts, 2), the width and shift of sweeps.refit
    """
    ends = np.array(ENDS[bits, items])
    widths = (ends[:, 0] + ends[:, 1]) / (2.0 * largest_for(bits))
    shifts = (ends[:, 1] - ends[:, 0]) / 2.0
    return np.stack([widths, shifts], axis=1).astype(np.float32)


@kernel
def _search(
    x: NDArray[np.float32],
    h: NDArray[np.float32],
    state: NDArray[np.float32],
    starts: NDArray[np.float32],
    items: int,
    lanes: int,
    curve: Curve,
) -> None:
    """Step 1, to S and C."""
    for j in range(lanes):
        state[BEST, j] = np.float32(np.inf)
    for column in range(0, lanes, STEP):
        base = column * items
        for k in range(starts.shape[0]):
            refit(x, h, state, base, items, column, starts[k, 0], starts[k, 1], curve)


@kernel
def _nearest(
    numbers: NDArray[np.float32],
    step: np.float32,
    bottom: np.float64,
    top: np.float64,
    codes: NDArray[np.float32],
) -> None:
    """Write the codes bottom .. top, multiples of step, nearest to numbers; 0 when step is 0."""
    per = np.float64(0.0) if step == 0 else np.float64(1.0) / np.float64(step)
    for j in range(numbers.size):
        codes[j] = np.float32(min(max(np.floor(numbers[j] * per + 0.5), bottom), top))


@kernel
def _probe_all(
    x: NDArray[np.float32],
    h: NDArray[np.float32],
    state: NDArray[np.float32],
    steps: tuple[np.float32, np.float32],
    saved: NDArray[np.float32],
    probes: int,
    scale_bits: int,
    items: int,
    lanes: int,
    curve: Curve,
) -> np.float64:
    """Codes around those in saved (2, LANES), the first `probes` of PROBES, to SCALE and CENTRE; the squared error."""
    d, dm = steps
    top, limit = np.float32((1 << scale_bits) - 1), np.float32(1 << (scale_bits - 1))
    per = np.float32(0.0) if dm == 0 else np.float32(np.float32(1.0) / dm)
    for j in range(lanes):
        state[BEST, j] = np.float32(np.inf)
        state[CENTRE, j] = saved[1, j]
    for column in range(0, lanes, STEP):
        for k in range(probes):
            for j in range(column, column + STEP):
                tried = np.float32(saved[0, j] + np.float32(PROBES[k]))
                state[TRIED, j] = min(max(tried, np.float32(0.0)), top)
                if k != 1:
                    state[MOVED, j] = state[CENTRE, j]
            probe(x, h, state, column * items, items, column, d, dm, per, limit, curve)
    error = 0.0
    for j in range(lanes):
        error += np.float64(state[BEST, j])
    return np.float64(error)


@kernel
def _resolve(
    state: NDArray[np.float32], steps: tuple[np.float32, np.float32], lanes: int
) -> tuple[np.float64, np.float64]:
    """The steps d and dm that fit the codes of all groups best."""
    ss, sm, mm, se, me = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(lanes):
        a, b = np.float64(state[SCALE, j]), np.float64(state[CENTRE, j])
        ss += a * a * np.float64(state[SUMS + 1, j])
        sm += a * b * np.float64(state[SUMS, j])
        mm += b * b * np.float64(state[TOTAL, j])
        se += a * np.float64(state[SUMS + 3, j])
        me += b * np.float64(state[SUMS + 2, j])
    d, dm = np.float64(steps[0]), np.float64(steps[1])
    determinant = ss * mm - sm * sm
    if not determinant > 1e-9 * ss * mm:
        return d, dm
    return d + (mm * se - sm * me) / determinant, dm + (ss * me - sm * se) / determinant


@kernel
def fit_super(
    x: NDArray[np.float32],
    h: NDArray[np.float32],
    state: NDArray[np.float32],
    saved: NDArray[np.float32],
    units: tuple[np.float64, np.float64],
    scale_bits: int,
    starts: NDArray[np.float32],
    items: int,
    lanes: int,
    curve: Curve,
) -> tuple[Integer, Integer]:
    """d and dm, as halves, of a super-block; the codes of its groups go to SCALE and CENTRE.

    x, h     float32 (256,), transposed: see the module's first lines, and sweeps
    state    float32 (sweeps.ROWS, LANES) with MID, HALF and TOTAL
    saved    float32 (2, LANES), scratch
    units    the power of two in x, times what d and dm count, see levels.grains_for
    starts   see starts_for; curve, see levels.curve_for
    items    weights per group; lanes, groups per super-block: 8 or 16
    """
    top, limit = np.float64((1 << scale_bits) - 1), np.float64(1 << (scale_bits - 1))
    _search(x, h, state, starts, items, lanes, curve)
    scales, centres, nought = state[S, :lanes], state[C, :lanes], np.float64(0.0)
    widest, low, high = 0.0, 0.0, 0.0
    for j in range(lanes):
        widest = max(widest, np.float64(scales[j]))
        low, high = min(low, np.float64(centres[j])), max(high, np.float64(centres[j]))
    extreme = -low if -low > high else -high
    half = half_outward1(np.float32(widest / top / units[0]))
    mid = half_outward1(np.float32(extreme / limit / units[1]))
    steps = np.float32(single1(half) * units[0]), np.float32(single1(mid) * units[1])
    _nearest(scales, steps[0], nought, top, saved[0, :lanes])
    _nearest(centres, steps[1], -limit, limit - 1.0, saved[1, :lanes])
    error = _probe_all(x, h, state, steps, saved, 1, scale_bits, items, lanes, curve)
    coarse = scale_bits < 6
    probes = len(PROBES) if coarse else 1
    for _ in range(2 if coarse else 1):
        d, dm = _resolve(state, steps, lanes)
        new_half = half_nearest1(np.float32(d / units[0]))
        new_mid = half_nearest1(np.float32(dm / units[1]))
        if not 0.0 < d or (new_half == half and new_mid == mid):
            break
        for j in range(lanes):
            saved[0, j], saved[1, j] = state[SCALE, j], state[CENTRE, j]
        steps = np.float32(single1(new_half) * units[0]), np.float32(single1(new_mid) * units[1])
        found = _probe_all(x, h, state, steps, saved, probes, scale_bits, items, lanes, curve)
        if not found < error:
            for j in range(lanes):
                state[SCALE, j], state[CENTRE, j] = saved[0, j], saved[1, j]
            break
        error, half, mid = found, new_half, new_mid
    return half, mid

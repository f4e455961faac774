"""One super-block: its weights side by side, its importances, its numbers and its codes."""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel
from kernels.curves import LANES, settle
from kernels.half import single1
from kernels.interleave import apart, place1, together
from kernels.levels import Curve, Grains
from kernels.superfit import fit_super
from kernels.sweeps import CENTRE, HALF, MID, SCALE, TOTAL
from kernels.vectors import STEP

BLOCK = 256  # weights per super-block
LEAST = np.float32(2.0**-24)  # importance, relative to the largest, below which it is not counted


@kernel
def importances(
    importance: NDArray[np.float32] | None,
    start: int,
    size: int,
    items: int,
    h: NDArray[np.float32],
    state: NDArray[np.float32],
) -> None:
    """Write h (BLOCK,), transposed, and its sums to TOTAL; 1 where there is no group."""
    for i in range(BLOCK):
        h[i] = np.float32(0.0)
    for j in range(LANES):
        state[TOTAL, j] = np.float32(0.0)
    largest = np.float32(0.0)
    if importance is not None:
        for i in range(start, start + size):
            largest = max(largest, importance[i])
    for i in range(size):
        value = np.float32(1.0)
        if importance is not None and largest > 0:
            value = max(np.float32(np.float64(importance[start + i]) / np.float64(largest)), LEAST)
        h[place1(i // items, i % items, items)] = value
        state[TOTAL, i // items] += value
    for j in range(LANES):
        if state[TOTAL, j] == 0:
            state[TOTAL, j] = np.float32(1.0)


@inlined
def unit1(size: np.float32) -> np.float32:
    """The power of two that brings size to 1 .. 2, as far as float32 has one."""
    exponent = np.int64(np.float32(size).view(np.uint32)) >> 23
    return np.uint32(max(np.int64(254) - exponent, np.int64(1)) << 23).view(np.float32)


@kernel
def ranges(
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    first: int,
    lanes: int,
    state: NDArray[np.float32],
) -> np.float32:
    """Write MID and HALF of groups first .. first + lanes - 1, scaled; the scale."""
    size = np.float32(0.0)
    for g in range(first, min(first + lanes, lo.size)):
        size = max(size, hi[g], -lo[g])
    unit = unit1(size)
    half = np.float32(0.5)
    for j in range(lanes):
        low, high = np.float32(0.0), np.float32(0.0)
        if first + j < lo.size:
            low, high = lo[first + j] * unit, hi[first + j] * unit
        state[MID, j] = np.float32(half * np.float32(low + high))
        state[HALF, j] = np.float32(half * np.float32(high - low))
    return unit


@kernel
def quantize_block(
    w: NDArray[np.float32],
    h: NDArray[np.float32],
    unit: np.float32,
    items: int,
    scale_bits: int,
    starts: NDArray[np.float32],
    grains: Grains,
    curve: Curve,
    scratch: NDArray[np.float32],
    state: NDArray[np.float32],
    pairs: NDArray[np.float32],
    transposed: NDArray[np.uint8],
    q: NDArray[np.uint8],
) -> tuple[Integer, Integer]:
    """Find the numbers of a super-block and encode it; d and dm as halves.

    w           float32 (BLOCK,), zeros where the row has ended
    h           float32 (BLOCK,), transposed importances
    unit        what MID and HALF in state were multiplied by
    scratch     float32 (2, BLOCK); pairs, float32 (2, LANES); transposed, uint8 (BLOCK,)
    state       float32 (ROWS, LANES); SCALE and CENTRE have the groups' codes afterwards
    q           uint8 (BLOCK,), codes, written
    """
    lanes, raw, scaled = BLOCK // items, scratch[0], scratch[1]
    apart(w, raw, scaled, lanes, items, unit)
    units = np.float64(unit) * np.float64(grains[0]), np.float64(unit) * np.float64(grains[1])
    d, dm = fit_super(scaled, h, state, pairs, units, scale_bits, starts, items, lanes, curve)
    for j in range(lanes):
        pairs[0, j] = np.float32(np.float32(single1(d) * grains[0]) * state[SCALE, j])
        pairs[1, j] = np.float32(np.float32(single1(dm) * grains[1]) * state[CENTRE, j])
    for column in range(0, lanes, STEP):
        settle(raw, pairs, transposed, column * items, items, column, curve)
    together(transposed, q, lanes, items)
    return d, dm

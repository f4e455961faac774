"""What GPTQ needs of super-blocks: their numbers for the weights as they are, and codes of a column.

The numbers of a super-block are found by the fit of superfit for all of its columns at once, so its later
groups have scales of before they learnt of the errors to their left. Their codes have learnt of them.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels._jit import inlined, kernel
from kernels.curves import LANES
from kernels.factor import STRIP
from kernels.half import single1
from kernels.levels import Curve, Grains, curve_for, grains_for, levels_for
from kernels.ranges import group_ranges
from kernels.superencode import BLOCK, importances, quantize_block, ranges
from kernels.superfit import starts_for
from kernels.sweeps import CENTRE, ROWS
from kernels.sweeps import SCALE as SCALE_CODE

Singles: TypeAlias = NDArray[np.float32]
Halves: TypeAlias = NDArray[np.uint16]
Bytes: TypeAlias = NDArray[np.uint8]

# scale_bits, then of superfit and levels: starts, levels, grains, curve.
Grid: TypeAlias = tuple[int, Singles, NDArray[np.int32], Grains, Curve]

# The rule of a group, for every row: 1 / s, its minimum or centre, s and the value of code (or level) 0.
INVERSE, LOW, SCALE, ORIGIN = range(4)


def grid_for(bits: int, items: int, scale_bits: int) -> Grid:
    """For scales of two levels; scale_bits 0 for groups with a scale of their own."""
    if scale_bits == 0:
        bits, items = 2, 16  # of nothing: nobody looks
    grains = grains_for(bits, scale_bits or 4)
    return scale_bits, starts_for(bits, items), levels_for(bits), grains, curve_for(bits)


@kernel
def gather(
    r: int, first: int, start: int, stop: int, at: int,
    wide: Singles, current: Singles, strip: Singles, w: Singles,
) -> None:  # fmt: skip
    """Weights of row r as they are now: columns first .. first + w.size, of the block start .. stop
    whose strip starts at `at`."""
    for i in range(w.size):
        c = first + i
        if c < min(at + STRIP, stop):
            w[i] = strip[c - at, r]
        elif c < stop:
            w[i] = current[r, c - start]
        else:
            w[i] = wide[r, c]


@kernel
def fit_supers(
    rows: int, col: int, items: int, grid: Grid, h: Singles, start: int, stop: int, at: int,
    wide: Singles, current: Singles, strip: Singles, d: Halves, dm: Halves,
    scale_codes: Bytes, min_codes: Bytes,
) -> None:  # fmt: skip
    """Numbers of the super-block whose first column is col, for all rows; other arguments as gather.

    scale_codes, min_codes   uint8 (rows, groups), not packed, and d, dm (rows, super-blocks): written
    """
    scale_bits, starts, _, grains, curve = grid
    size, lanes = min(BLOCK, h.size - col), BLOCK // items
    w, q, transposed = (
        np.zeros(BLOCK, np.float32),
        np.zeros(BLOCK, np.uint8),
        np.zeros(BLOCK, np.uint8),
    )
    lo, hi = np.empty((size + items - 1) // items, np.float32), np.empty(lanes, np.float32)
    hi = hi[: lo.size]
    near, scratch = np.zeros(BLOCK, np.float32), np.zeros((2, BLOCK), np.float32)
    state, pairs = np.zeros((ROWS, LANES), np.float32), np.zeros((2, LANES), np.float32)
    zero, first, k = 1 << (scale_bits - 1), col // items, col // BLOCK
    importances(h, col, size, items, near, state)
    for r in range(rows):
        gather(r, col, start, stop, at, wide, current, strip, w[:size])
        group_ranges(w[:size], items, lo, hi)
        unit = ranges(lo, hi, 0, lanes, state)
        d[r, k], dm[r, k] = quantize_block(
            w, near, unit, items, scale_bits, starts, grains, curve, scratch, state, pairs,
            transposed, q,
        )  # fmt: skip
        for j in range(lo.size):
            scale_codes[r, first + j] = np.uint8(state[SCALE_CODE, j])
            min_codes[r, first + j] = np.uint8(np.int64(state[CENTRE, j]) + zero)


@inlined
def note_super_rule(
    rules: Singles, r: int, d: int, dm: int, scale_code: int, min_code: int, grid: Grid
) -> None:
    grains, zero = grid[3], 1 << (grid[0] - 1)
    s = np.float32(np.float32(single1(d) * grains[0]) * np.float32(scale_code))
    c = np.float32(np.float32(single1(dm) * grains[1]) * np.float32(np.int64(min_code) - zero))
    rules[INVERSE, r] = np.float32(0.0) if s == 0 else np.float32(np.float32(1.0) / s)
    rules[LOW, r], rules[SCALE, r], rules[ORIGIN, r] = c, s, c


@inlined
def encode_super_column(
    w: Singles, rules: Singles, levels: NDArray[np.int32], heed: Singles, q: Bytes, e: Singles
) -> None:
    """Codes of one column of a tile, those of the nearest levels, ties to the larger; and w - v, 0 in
    rows that are not heeded."""
    inverse, low, scale, origin = rules[INVERSE], rules[LOW], rules[SCALE], rules[ORIGIN]
    for r in range(w.size):
        e[r] = np.float32(np.float32(w[r] - low[r]) * inverse[r])
        q[r] = np.uint8(0)
    for k in range(levels.size - 1):
        middle = np.float32(np.float32(levels[k] + levels[k + 1]) * np.float32(0.5))
        for r in range(w.size):
            q[r] += np.uint8(e[r] >= middle)
    for r in range(w.size):
        v = np.float32(np.float32(scale[r] * np.float32(levels[q[r]])) + origin[r])
        e[r] = np.float32(w[r] - v) if heed[r] > 0 else np.float32(0.0)

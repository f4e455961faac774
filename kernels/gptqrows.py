"""A tile of rows by GPTQ: what rounding a column loses is taken over by the columns after it.

For column j, with the current weight w, its value v as stored and the factor U (see factor):

    e = (w - v) / U_jj,   w_k -= e U_jk  for every k > j

at once for the columns of a strip, and by one product of matrices for those to the right of it.
TALL rows go together: in a strip they lie side by side, so that every step is one over rows.

Scale and minimum of a group are found by weighted least squares (see lsq) when its first column comes
up, on the weights as they are by then; for columns in another order, from the weights as they were.
Columns beyond the strip have by then not yet learnt of the strip's own errors. With scales of two
levels it is a super-block whose numbers are found when its first column comes up (see gptqsuper).

Rows with a weight beyond LARGEST, far outside what halves can scale, are rounded without correction.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import inlined, kernel
from kernels.bitpack import pack_row
from kernels.curves import LANES
from kernels.encode import offset1, rule1
from kernels.factor import STRIP, strip_start
from kernels.gptqsuper import (
    INVERSE,
    LOW,
    ORIGIN,
    SCALE,
    Grid,
    encode_super_column,
    fit_supers,
    gather,
    note_super_rule,
)
from kernels.half import single1
from kernels.importance import weighted_measure
from kernels.lsq import FITS, refine_row
from kernels.minmax import params_row
from kernels.ranges import group_ranges
from kernels.superencode import BLOCK
from kernels.superrows import decode_row, measure_row
from kernels.tiles import ROWS, WIDTH32, subtract_tile
from kernels.vectors import ROUND
from kernels.widen import first_nonfinite, padded, widen_row

TALL = 64  # rows of a tile
LARGEST = np.float32(2.0**24)

Singles = NDArray[np.float32]
Halves = NDArray[np.uint16]
Bytes = NDArray[np.uint8]


@kernel
def _fit_group(
    w: Singles, h: Singles, bits: int, symmetric: bool, slopes: Singles, scale: Halves, low: Halves,
    image: Singles, fits: NDArray[np.float64], found: Halves,
) -> None:  # fmt: skip
    """Scale and minimum, (1,) each, of one group w (n,) with importances h (n,)."""
    lo, hi = np.empty(1, np.float32), np.empty(1, np.float32)
    group_ranges(w, w.size, lo, hi)
    params_row(lo, hi, bits, symmetric, scale, low)
    if slopes.size > 0:
        refine_row(
            w, h, w.size, lo, hi, bits, symmetric, slopes, scale, low, image, fits, found
        )  # fmt: skip


@inlined
def _note_rule(rules: Singles, r: int, scale: int, low: int, zero: int, top: int) -> None:
    inverse, m, _, _, s, origin = rule1(single1(scale), single1(low), zero, top)
    rules[INVERSE, r], rules[LOW, r] = inverse, m
    rules[SCALE, r], rules[ORIGIN, r] = s, origin


@inlined
def _encode_column(
    w: Singles, rules: Singles, offset: np.float32, top: np.float32, heed: Singles,
    q: NDArray[np.uint8], e: Singles,
) -> None:  # fmt: skip
    """Codes of one column of a tile, and w - v, 0 in rows that are not heeded."""
    inverse, low, scale, origin = rules[INVERSE], rules[LOW], rules[SCALE], rules[ORIGIN]
    for r in range(w.size):
        t = np.float32(np.float32(np.float32(w[r] - low[r]) * inverse[r]) + offset)
        u = np.float32(min(max(t, np.float32(ROUND)), top) - np.float32(ROUND))
        v = np.float32(np.float32(scale[r] * u) + origin[r])
        q[r] = np.uint8(u)
        e[r] = np.float32(w[r] - v) if heed[r] > 0 else np.float32(0.0)


@inlined
def _take(target: Singles, factor: np.float32, e: Singles) -> None:
    for r in range(target.size):
        target[r] -= np.float32(factor * e[r])


@kernel
def _static_groups(
    wide: Singles, h: Singles, rows: int, bits: int, group: int, symmetric: bool, slopes: Singles,
    scales: Halves, mins: Halves,
) -> None:  # fmt: skip
    """Scales and minima of all groups from the weights as they were."""
    cols = h.size
    image = np.zeros(padded(cols), np.float32)[:cols]
    groups = scales.shape[1]
    fits, found = np.empty((FITS, groups), np.float64), np.empty((2, groups), np.uint16)
    lo, hi = np.empty(groups, np.float32), np.empty(groups, np.float32)
    for r in range(rows):
        w = wide[r, :cols]
        group_ranges(w, group, lo, hi)
        params_row(lo, hi, bits, symmetric, scales[r], mins[r])
        if slopes.size > 0:
            refine_row(
                w, h, group, lo, hi, bits, symmetric, slopes, scales[r], mins[r], image, fits, found
            )  # fmt: skip


@kernel
def _round_block(
    wide: Singles, h: Singles, rows: int, bits: int, group: int, symmetric: bool, slopes: Singles,
    order: NDArray[np.int32], act_order: bool, start: int, stop: int, packed: Singles, heed: Singles,
    grid: Grid, scale_codes: Bytes, min_codes: Bytes, scales: Halves, mins: Halves, q: Bytes,
) -> None:  # fmt: skip
    """The columns of one block of H; q, uint8 (cols, TALL), gets their codes."""
    cols, size = h.size, stop - start
    room = (size + STRIP - 1) // STRIP * STRIP
    current, strip = np.zeros((TALL, room), np.float32), np.zeros((STRIP, TALL), np.float32)
    errors, across = np.zeros((STRIP, TALL), np.float32), np.zeros((TALL, STRIP), np.float32)
    rules, upper = np.zeros((4, TALL), np.float32), np.empty((STRIP, STRIP), np.float32)
    fits, found = np.empty((FITS, 1), np.float64), np.empty((2, 1), np.uint16)
    buffers = np.zeros((2, padded(group)), np.float32)
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    ruled = -1
    for r in range(rows):
        for i in range(size):
            current[r, i] = wide[r, order[start + i]]
    for number in range(room // STRIP):
        first, base = number * STRIP, strip_start(size, number)
        wide_strip = min(STRIP, size - first)
        for k in range(STRIP):
            for r in range(TALL):
                strip[k, r] = current[r, first + k]
            for j in range(STRIP):
                upper[k, j] = packed[
                    base + j // WIDTH32 * STRIP * WIDTH32 + k * WIDTH32 + j % WIDTH32
                ]
        errors[:] = np.float32(0.0)
        for k in range(wide_strip):
            col = order[start + first + k]
            g = col // group
            two_levels = grid[0] > 0
            if not act_order and two_levels and col % BLOCK == 0:
                fit_supers(
                    rows, col, group, grid, h, start, stop, start + first, wide, current, strip,
                    scales, mins, scale_codes, min_codes,
                )  # fmt: skip
            if not act_order and not two_levels and col % group == 0:
                length = min(group, cols - col)
                w, image = buffers[0, :length], buffers[1, :length]
                for r in range(rows):
                    gather(r, col, start, stop, start + first, wide, current, strip, w)
                    _fit_group(
                        w, h[col : col + length], bits, symmetric, slopes, scales[r, g : g + 1],
                        mins[r, g : g + 1], image, fits, found,
                    )  # fmt: skip
            if g != ruled:
                ruled = g
                for r in range(rows):
                    if two_levels:
                        note_super_rule(
                            rules, r, scales[r, col // BLOCK], mins[r, col // BLOCK],
                            scale_codes[r, g], min_codes[r, g], grid,
                        )  # fmt: skip
                    else:
                        low = 0 if symmetric else mins[r, g]
                        _note_rule(rules, r, scales[r, g], low, zero, top)
            e = errors[k]
            if two_levels:
                encode_super_column(strip[k], rules, grid[2], heed, q[col], e)
            else:
                _encode_column(strip[k], rules, offset1(zero), offset1(top), heed, q[col], e)
            over = np.float32(np.float32(1.0) / upper[k, k])
            for r in range(TALL):
                e[r] = np.float32(e[r] * over)
            for j in range(k + 1, wide_strip):
                _take(strip[j], upper[k, j], e)
        for r in range(TALL):
            for k in range(STRIP):
                across[r, k] = errors[k, r]
        for p in range((first + STRIP) // WIDTH32, room // WIDTH32):
            panel = base + (p - first // WIDTH32) * STRIP * WIDTH32
            for r in range(0, TALL, ROWS):
                subtract_tile(
                    current, across, packed, r * room + p * WIDTH32, room, r * STRIP, STRIP,
                    panel, STRIP,
                )  # fmt: skip


@kernel
def quantize_gptq_rows(
    x: NDArray[np.unsignedinteger], kind: int, bits: int, group: int, symmetric: bool,
    slopes: Singles, grid: Grid, h: Singles, order: NDArray[np.int32], act_order: bool, block: int,
    packed: Singles, codes: Bytes, scale_codes: Bytes, min_codes: Bytes, scales: Halves,
    mins: Halves, sums: NDArray[np.float64], weighted: NDArray[np.float64],
) -> int:  # fmt: skip
    """Quantize at most TALL rows.

    grid                     see gptqsuper; its scale_bits are 0 for groups with a scale of their own
    h, order, act_order, block, packed   see factor.Factor
    scale_codes, min_codes   as superblock.EncodedSuper, written; scales and mins are then d and dm
    Other arguments and result as rows.quantize_rows; weighted is written.
    """
    rows, cols = x.shape
    room = padded(cols)
    wide, q = np.zeros((TALL, room), np.float32), np.zeros((cols, TALL), np.uint8)
    heed = np.zeros(TALL, np.float32)
    # Of whole super-blocks, so that rows can be packed.
    s_codes = np.zeros((rows, (cols + BLOCK - 1) // BLOCK * LANES), np.uint8)
    m_codes = np.zeros_like(s_codes)
    for r in range(rows):
        widen_row(x[r], kind, wide[r, :cols])
        bad = first_nonfinite(wide[r, :cols])
        if bad >= 0:
            return int(r * cols + bad)
        heed[r] = np.float32(np.abs(wide[r]).max() <= LARGEST)
    if act_order and grid[0] > 0:
        for col in range(0, cols, BLOCK):
            fit_supers(
                rows, col, group, grid, h, 0, 0, 0, wide, wide, wide, scales, mins, s_codes, m_codes
            )
    elif act_order:
        _static_groups(wide, h, rows, bits, group, symmetric, slopes, scales, mins)
    for b in range((cols + block - 1) // block):
        _round_block(
            wide, h, rows, bits, group, symmetric, slopes, order, act_order, b * block,
            min((b + 1) * block, cols), packed[b], heed, grid, s_codes, m_codes, scales, mins, q,
        )  # fmt: skip
    row, values = np.zeros(room, np.uint8), np.zeros(room, np.float32)
    v = values[:cols]
    for r in range(rows):
        for c in range(cols):
            row[c] = q[c, r]
        if grid[0] > 0:
            decode_row(
                row,
                s_codes[r],
                m_codes[r],
                scales[r],
                mins[r],
                group,
                grid[0],
                grid[2],
                grid[3],
                grid[4],
                v,
            )
            pack_row(s_codes[r], grid[0], scale_codes[r])
            pack_row(m_codes[r], grid[0], min_codes[r])
        else:
            _decode_groups(row, bits, group, symmetric, scales[r], mins[r], v)
        measure_row(wide[r, :cols], v, sums[r])
        weighted_measure(wide[r, :cols], h, v, weighted[r])
        pack_row(row, bits, codes[r])
    return -1


@kernel
def _decode_groups(
    q: Bytes, bits: int, group: int, symmetric: bool, scales: Halves, mins: Halves, v: Singles
) -> None:
    """What the codes of a row stand for, to v (cols,)."""
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    for g in range(scales.size):
        low = np.float32(0.0) if symmetric else single1(mins[g])
        _, _, _, _, s, origin = rule1(single1(scales[g]), low, zero, top)
        for c in range(g * group, min((g + 1) * group, v.size)):
            v[c] = np.float32(np.float32(s * np.float32(q[c])) + origin)

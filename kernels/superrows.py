"""Blocks of rows to codes of super-blocks and back; the format is in superblock."""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.bitpack import pack_row, unpack_row
from kernels.curves import LANES, decode_turns
from kernels.encode import fold_lanes
from kernels.fidelity import COLUMNS, W2, WQ
from kernels.half import single1
from kernels.importance import weighted_measure
from kernels.lanes import measure_lanes
from kernels.levels import Curve, Grains
from kernels.ranges import group_ranges
from kernels.superencode import BLOCK, importances, quantize_block, ranges
from kernels.sweeps import CENTRE, ROWS, SCALE
from kernels.unbiased import factor1, stretch_row
from kernels.vectors import LANES as SUM_LANES
from kernels.vectors import TURN
from kernels.widen import first_nonfinite, widen_row


@kernel
def decode_row(
    q: NDArray[np.uint8],
    scale_codes: NDArray[np.uint8],
    min_codes: NDArray[np.uint8],
    d: NDArray[np.uint16],
    dm: NDArray[np.uint16],
    items: int,
    scale_bits: int,
    levels: NDArray[np.int32],
    grains: Grains,
    curve: Curve,
    out: NDArray[np.float32],
) -> None:
    """Write the values of a row to out (cols,).

    q                       uint8 (>= cols,), codes
    scale_codes, min_codes  uint8 (>= groups,), not packed
    d, dm                   halves as uint16 (super-blocks,)
    levels, grains, curve   int32 (2^bits,), a pair and a rule that gives the same levels, see levels
    """
    zero = 1 << (scale_bits - 1)
    for g in range((out.size + items - 1) // items):
        start, stop = g * items, min((g + 1) * items, out.size)
        block = start // BLOCK
        s = np.float32(np.float32(single1(d[block]) * grains[0]) * np.float32(scale_codes[g]))
        c = np.float32(
            np.float32(single1(dm[block]) * grains[1]) * np.float32(np.int64(min_codes[g]) - zero)
        )
        whole = stop - (stop - start) % TURN
        decode_turns(q, out, start, whole, s, c, curve)
        for i in range(whole, stop):
            out[i] = np.float32(np.float32(s * np.float32(levels[q[i]])) + c)


@kernel
def measure_row(w: NDArray[np.float32], v: NDArray[np.float32], sums: NDArray[np.float64]) -> None:
    """Write the error sums (COLUMNS,) of decoded values v; both with room for whole steps."""
    lanes = np.zeros((COLUMNS, SUM_LANES), np.float64)
    measure_lanes(w, v, lanes, 0, w.size)
    fold_lanes(lanes, sums)


@kernel
def quantize_super_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    items: int,
    scale_bits: int,
    starts: NDArray[np.float32],
    levels: NDArray[np.int32],
    grains: Grains,
    curve: Curve,
    importance: NDArray[np.float32] | None,
    unbias: float,
    codes: NDArray[np.uint8],
    scale_codes: NDArray[np.uint8],
    min_codes: NDArray[np.uint8],
    d: NDArray[np.uint16],
    dm: NDArray[np.uint16],
    sums: NDArray[np.float64],
    weighted: NDArray[np.float64],
) -> int:
    """Quantize a block of rows.

    x                   patterns (rows, cols) of the given kind, see widen
    items               weights per group, 16 or 32
    starts              see superfit.starts_for; levels, grains and curve, see levels
    importance, unbias  as rows.quantize_rows, and so are sums, weighted and the result
    codes, scale_codes, min_codes, d, dm   see superblock.EncodedSuper, d and dm as uint16; written
    """
    rows, cols = x.shape
    lanes, blocks, groups = BLOCK // items, d.shape[1], (cols + items - 1) // items
    room = blocks * BLOCK
    wide, q, v = np.zeros(room, np.float32), np.zeros(room, np.uint8), np.zeros(room, np.float32)
    lo, hi = np.empty(groups, np.float32), np.empty(groups, np.float32)
    scale_row, min_row = np.zeros(blocks * LANES, np.uint8), np.zeros(blocks * LANES, np.uint8)
    h, scratch = np.zeros(BLOCK, np.float32), np.zeros((2, BLOCK), np.float32)
    state, pairs = np.zeros((ROWS, LANES), np.float32), np.zeros((2, LANES), np.float32)
    transposed, before = np.zeros(BLOCK, np.uint8), np.empty(blocks, np.uint16)
    zero, w, values = 1 << (scale_bits - 1), wide[:cols], v[:cols]
    ready = -1  # weights in a block that h stands for
    for r in range(rows):
        widen_row(x[r], kind, w)
        if not group_ranges(w, items, lo, hi):
            return int(r * cols + first_nonfinite(w))
        for k in range(blocks):
            start, first = k * BLOCK, k * lanes
            stop, last = min(start + BLOCK, cols), min(first + lanes, groups)
            if importance is not None or ready != stop - start:
                importances(importance, start, stop - start, items, h, state)
                ready = stop - start
            unit = ranges(lo, hi, first, lanes, state)
            d[r, k], dm[r, k] = quantize_block(
                wide[start : start + BLOCK], h, unit, items, scale_bits, starts, grains, curve,
                scratch, state, pairs, transposed, q[start : start + BLOCK],
            )  # fmt: skip
            for j in range(last - first):
                scale_row[first + j] = np.uint8(state[SCALE, j])
                min_row[first + j] = np.uint8(np.int64(state[CENTRE, j]) + zero)
        for c in range(cols, room):
            q[c] = 0
        decode_row(
            q, scale_row, min_row, d[r], dm[r], items, scale_bits, levels, grains, curve, values
        )
        measure_row(w, values, sums[r])
        total = sums[r]
        if importance is not None:
            total = weighted[r]
            weighted_measure(w, importance, values, total)
        factor = factor1(total[W2], total[WQ], np.float64(unbias))
        if factor != 1.0:
            stretch_row(d[r], factor, before)
            stretch_row(dm[r], factor, before)
            decode_row(
                q, scale_row, min_row, d[r], dm[r], items, scale_bits, levels, grains, curve, values
            )
            measure_row(w, values, sums[r])
            if importance is not None:
                weighted_measure(w, importance, values, total)
        pack_row(q, bits, codes[r])
        pack_row(scale_row, scale_bits, scale_codes[r])
        pack_row(min_row, scale_bits, min_codes[r])
    return -1


@kernel
def dequantize_super_rows(
    codes: NDArray[np.uint8],
    scale_codes: NDArray[np.uint8],
    min_codes: NDArray[np.uint8],
    d: NDArray[np.uint16],
    dm: NDArray[np.uint16],
    bits: int,
    items: int,
    scale_bits: int,
    levels: NDArray[np.int32],
    grains: Grains,
    curve: Curve,
    out: NDArray[np.float32],
) -> None:
    """Decode a block of rows to out (rows, cols); arguments as quantize_super_rows."""
    rows, cols = out.shape
    groups = (cols + items - 1) // items
    q = np.empty(cols, np.uint8)
    scale_row, min_row = np.empty(groups, np.uint8), np.empty(groups, np.uint8)
    for r in range(rows):
        unpack_row(codes[r], bits, q)
        unpack_row(scale_codes[r], scale_bits, scale_row)
        unpack_row(min_codes[r], scale_bits, min_row)
        decode_row(
            q, scale_row, min_row, d[r], dm[r], items, scale_bits, levels, grains, curve, out[r]
        )

"""Codes of weights once the stored scale and minimum are known, and the errors they make.

Stored code u, scale s and minimum m (float16 values held as float32), zero point z:

    asymmetric   z = 0             v = s u + m
    symmetric    z = 2^(bits - 1)  v = s (u - z)        (m = 0)

    u = clip(round((w - m) * (1 / s)) + z, 0, 2^bits - 1)

in float32, every operation rounded; s = 0 gives u = z. Ties go to even, so that rounding is one
addition, see vectors.ROUND. s (u - z) has at most 11 + 8
significant bits and is exact, so v is rounded once, with or without fused multiply-add. Where
scales were stretched after the codes were found (see unbiased), u is by the scale and minimum before,
v by those after.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel, uncounted
from kernels.fidelity import COLUMNS, E2, MAX, Q2, W2, WQ
from kernels.half import single1
from kernels.importance import Rule, weighted_error, weighted_sums
from kernels.lanes import encode_exact, encode_lanes, error_lanes, fold_short, prefetch
from kernels.vectors import LANES, ROUND, TURN

CHUNK = 256  # weights at most whose errors are added up in float32
# Squares of weights between these bounds neither overflow in float32 nor lose what counts of an
# error: below 2^-63 it is too small to be seen beside the largest weight.
LEAST, MOST = 2.0**-60, 2.0**100


# The rules of a row's groups, and its sums: float32 (4, groups), float32 (4, TURN), float64 (3, TURN)
# and (COLUMNS, LANES).
Scratch: TypeAlias = tuple[
    NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]
]


@kernel
def scratch_for(groups: int) -> Scratch:
    """What encode_row needs for any row of so many groups."""
    return (
        np.empty((4, groups), np.float32),
        np.empty((4, TURN), np.float32),
        np.empty((3, TURN), np.float64),
        np.empty((COLUMNS, LANES), np.float64),
    )


@inlined
def rule1(scale: np.float32, low: np.float32, zero: Integer, top: Integer) -> Rule:
    """What the vectors of lanes need to know.

    For codes 1 / s, m, and what code z and the largest code are once ROUND is added; for values s and
    m - s z, which is exact as one of m and z is 0.
    """
    inverse = np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)
    return inverse, low, offset1(zero), offset1(top), scale, origin1(scale, low, zero)


@inlined
def offset1(code: Integer) -> np.float32:
    """A code as it is before ROUND is taken off."""
    return np.float32(ROUND + code)


@inlined
def origin1(scale: np.float32, low: np.float32, zero: Integer) -> np.float32:
    """The value of code 0."""
    return np.float32(low - np.float32(scale * np.float32(zero)))


@inlined
def squared_error(
    w: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    start: Integer,
    stop: Integer,
    scale: np.float32,
    low: np.float32,
    zero: Integer,
    top: Integer,
) -> np.float64:
    """Sum of e^2, or of h e^2, if w[start:stop] were encoded with scale and low."""
    rule = rule1(scale, low, zero, top)
    if importance is not None:
        return weighted_error(w, importance, start, stop, rule)
    total = np.float64(0.0)
    for first in range(start, stop, CHUNK):
        total += error_lanes(w, first, min(first + CHUNK, stop), rule)
    return total


@inlined
def group_rule(
    code_scale: Integer, code_low: Integer, scale: Integer, low: Integer, zero: int, top: int
) -> Rule:
    """The rule of a group whose codes go by one pair of halves and whose values by another."""
    inverse, m, offset, largest, _, _ = rule1(single1(code_scale), single1(code_low), zero, top)
    s = single1(scale)
    return inverse, m, offset, largest, s, origin1(s, single1(low), zero)


@uncounted
def fold_lanes(lanes: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
    """Write to sums (COLUMNS,) what lanes (COLUMNS, LANES) add up to, lanes added in order."""
    for c in range(COLUMNS):
        total = lanes[c, 0]
        for lane in range(1, LANES):
            total = max(total, lanes[c, lane]) if c == MAX else total + lanes[c, lane]
        sums[c] = total


@inlined
def _total(
    short: NDArray[np.float32], totals: NDArray[np.float64], sums: NDArray[np.float64]
) -> bool:
    """Write to sums (COLUMNS,) what lanes (3, TURN) add up to; whether float32 could hold them.

    sum w v = (sum w^2 + sum v^2 - sum e^2) / 2 by expanding e^2.
    """
    w2, e2, v2, largest = 0.0, 0.0, 0.0, 0.0
    for lane in range(TURN):
        w2 += totals[0, lane]
        e2 += totals[1, lane]
        v2 += totals[2, lane]
        largest = max(largest, np.float64(short[3, lane]))
    sums[W2], sums[E2], sums[WQ], sums[Q2], sums[MAX] = w2, e2, 0.5 * (w2 + v2 - e2), v2, largest
    return LEAST < w2 < MOST and v2 < MOST and e2 < MOST


@inlined
def rules_row(
    code_scales: NDArray[np.uint16],
    code_mins: NDArray[np.uint16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    zero: int,
    rules: NDArray[np.float32],
) -> None:
    """Write what rule1 knows of every group to rules (4, groups): 1 / s, m, s and the value of 0."""
    for g in range(scales.size):
        code_scale, scale = single1(code_scales[g]), single1(scales[g])
        inverse = np.float32(np.float32(1.0) / code_scale)
        rules[0, g] = np.float32(0.0) if code_scale == 0 else inverse
        rules[2, g] = scale
    if mins.size == 0:
        for g in range(scales.size):
            rules[1, g] = np.float32(0.0)
            rules[3, g] = -np.float32(rules[2, g] * np.float32(zero))
    else:
        for g in range(scales.size):
            rules[1, g] = single1(code_mins[g])
            rules[3, g] = single1(mins[g])


@inlined
def encode_row(
    w: NDArray[np.float32],
    group: int,
    bits: int,
    symmetric: bool,
    code_scales: NDArray[np.uint16],
    code_mins: NDArray[np.uint16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    scratch: Scratch,
    ahead: NDArray[np.unsignedinteger],
    q: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Encode one row.

    w       float32 (cols,), finite, with room, see widen.padded
    group   weights per group, a multiple of 8 or at least cols
    code_scales, code_mins   what codes are rounded by: halves as uint16 (groups,); mins may be
            empty when symmetric
    scales, mins   what is stored, the same or stretched (see unbiased); values are decoded by it
    scratch from scratch_for(groups)
    ahead   patterns (cols,) that are wanted next: fetched into the cache meanwhile
    q       uint8 (cols,) with the same room: codes, one per byte, written; zero beyond cols
    sums    float64 (COLUMNS,), written: CHUNK weights at most are added up in float32 lanes, these
            in float64 (a row whose squares float32 cannot hold: all in float64), in a fixed order
    """
    rules, short, totals, lanes = scratch
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    rules_row(code_scales, code_mins, scales, mins, zero, rules)
    for lane in range(TURN):
        short[0, lane] = short[1, lane] = short[2, lane] = short[3, lane] = np.float32(0.0)
        totals[0, lane] = totals[1, lane] = totals[2, lane] = 0.0
    offset, largest = offset1(zero), offset1(top)
    added = 0
    for g in range(scales.size):
        rule = rules[0, g], rules[1, g], offset, largest, rules[2, g], rules[3, g]
        last = min((g + 1) * group, w.size)
        for start in range(g * group, last, CHUNK):
            stop = min(start + CHUNK, last)
            if added + stop - start > CHUNK:
                fold_short(short, totals)
                added = 0
            added += stop - start
            for line in range(start, stop, 64 // ahead.itemsize):
                prefetch(ahead, line)
            encode_lanes(w, q, short, start, stop, rule)
    fold_short(short, totals)
    if not _total(short, totals, sums):
        _encode_exactly(
            w, group, bits, symmetric, code_scales, code_mins, scales, mins, lanes, q, sums
        )


@uncounted
def _encode_exactly(
    w: NDArray[np.float32],
    group: int,
    bits: int,
    symmetric: bool,
    code_scales: NDArray[np.uint16],
    code_mins: NDArray[np.uint16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    lanes: NDArray[np.float64],
    q: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """As encode_row, with every sum in float64."""
    for column in range(COLUMNS):
        for lane in range(LANES):
            lanes[column, lane] = 0.0
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    code_low: Integer = 0
    low: Integer = 0
    for g in range(scales.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        if not symmetric:
            code_low, low = code_mins[g], mins[g]
        rule = group_rule(code_scales[g], code_low, scales[g], low, zero, top)
        encode_exact(w, q, lanes, start, stop, rule)
    fold_lanes(lanes, sums)


@uncounted
def weigh_row(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    group: int,
    bits: int,
    symmetric: bool,
    code_scales: NDArray[np.uint16],
    code_mins: NDArray[np.uint16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
) -> None:
    """Write the sums (COLUMNS,) of encode_row with every product times the column's importance.

    importance  float32 (cols,); other arguments as encode_row
    """
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    code_low: Integer = 0
    low: Integer = 0
    for c in range(COLUMNS):
        sums[c] = 0.0
    for g in range(scales.size):
        if not symmetric:
            code_low, low = code_mins[g], mins[g]
        rule = group_rule(code_scales[g], code_low, scales[g], low, zero, top)
        weighted_sums(w, importance, g * group, min((g + 1) * group, w.size), rule, sums)

"""Codes of weights once the stored scale and minimum are known, and the errors they make.

Stored code u, scale s and minimum m (float16 values held as float32), zero point z:

    asymmetric   z = 0             v = s u + m
    symmetric    z = 2^(bits - 1)  v = s (u - z)        (m = 0)

    u = clip(floor((w - m) * (1 / s) + z + 1/2), 0, 2^bits - 1)

in float32, every operation rounded; s = 0 gives u = z. Ties go up. s (u - z) has at most 11 + 8
significant bits and is exact, so v is rounded once, with or without fused multiply-add. Where
scales were stretched after the codes were found (see unbiased), u is by the scale and minimum before,
v by those after.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel
from kernels.fidelity import COLUMNS, MAX
from kernels.half import single1
from kernels.importance import Rule, weighted_error, weighted_sums
from kernels.lanes import encode_lanes, error_lanes
from kernels.vectors import LANES, STEP


@kernel
def padded(cols: int) -> int:
    """Elements of a row array that is read and written in whole steps."""
    return (cols + STEP - 1) // STEP * STEP


@inlined
def rule1(scale: np.float32, low: np.float32, zero: Integer, top: Integer) -> Rule:
    """What the vectors of lanes need to know.

    For codes 1 / s, m, z + 1/2 and the largest code; for values s, m and z.
    """
    inverse = np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)
    return inverse, low, np.float32(zero + 0.5), np.float32(top), scale, low, np.float32(zero)


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
    if importance is None:
        return error_lanes(w, start, stop, rule)
    return weighted_error(w, importance, start, stop, rule)


@inlined
def group_rule(
    code_scale: Integer, code_low: Integer, scale: Integer, low: Integer, zero: int, top: int
) -> Rule:
    """The rule of a group whose codes go by one pair of halves and whose values by another."""
    inverse, m, offset, largest, _, _, origin = rule1(
        single1(code_scale), single1(code_low), zero, top
    )
    return inverse, m, offset, largest, single1(scale), single1(low), origin


@kernel
def fold_lanes(lanes: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
    """Write to sums (COLUMNS,) what lanes (COLUMNS, LANES) add up to, lanes added in order."""
    for c in range(COLUMNS):
        total = lanes[c, 0]
        for lane in range(1, LANES):
            total = max(total, lanes[c, lane]) if c == MAX else total + lanes[c, lane]
        sums[c] = total


@kernel
def encode_row(
    w: NDArray[np.float32],
    group: int,
    bits: int,
    symmetric: bool,
    code_scales: NDArray[np.uint16],
    code_mins: NDArray[np.uint16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    q: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Encode one row.

    w       float32 (cols,), finite, with room up to a multiple of STEP, see padded
    group   weights per group, a multiple of STEP or at least cols
    code_scales, code_mins   what codes are rounded by: halves as uint16 (groups,); mins may be
            empty when symmetric
    scales, mins   what is stored, the same or stretched (see unbiased); values are decoded by it
    q       uint8 (cols,) with the same room: codes, one per byte, written; zero beyond cols
    sums    float64 (COLUMNS,), written: weight i counts in lane i % LANES, lanes added in order
    """
    lanes = np.zeros((COLUMNS, LANES), np.float64)
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    code_low: Integer = 0
    low: Integer = 0
    for g in range(scales.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        if not symmetric:
            code_low, low = code_mins[g], mins[g]
        rule = group_rule(code_scales[g], code_low, scales[g], low, zero, top)
        encode_lanes(w, q, lanes, start, stop, rule)
    fold_lanes(lanes, sums)


@kernel
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

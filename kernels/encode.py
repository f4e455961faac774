"""Codes of weights once the stored scale and minimum are known, and the errors they make.

Stored code u, scale s and minimum m (float16 values held as float32), zero point z:

    asymmetric   z = 0             v = s u + m
    symmetric    z = 2^(bits - 1)  v = s (u - z)        (m = 0)

    u = clip(floor((w - m) * (1 / s) + z + 1/2), 0, 2^bits - 1)

in float32, every operation rounded; s = 0 gives u = z. Ties go up. s (u - z) has at most 11 + 8
significant bits and is exact, so v is rounded once, with or without fused multiply-add.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel
from kernels.fidelity import COLUMNS, MAX
from kernels.half import single1
from kernels.lanes import LANES, STEP, encode_lanes, error_lanes

Rule: TypeAlias = tuple[np.float32, np.float32, np.float32, np.float32, np.float32, np.float32]


@kernel
def padded(cols: int) -> int:
    """Elements of a row array that is read and written in whole steps."""
    return (cols + STEP - 1) // STEP * STEP


@inlined
def rule1(scale: np.float32, low: np.float32, zero: Integer, top: Integer) -> Rule:
    """What the vectors of lanes need to know: s, 1 / s, m, z + 1/2, the largest code, z."""
    inverse = np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)
    return scale, inverse, low, np.float32(zero + 0.5), np.float32(top), np.float32(zero)


@inlined
def squared_error(
    w: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    scale: np.float32,
    low: np.float32,
    zero: Integer,
    top: Integer,
) -> np.float64:
    """Sum of e^2 if w[start:stop] were encoded with scale and low."""
    return error_lanes(w, start, stop, rule1(scale, low, zero, top))


@kernel
def encode_row(
    w: NDArray[np.float32],
    group: int,
    bits: int,
    symmetric: bool,
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    q: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Encode one row.

    w       float32 (cols,), finite, with room up to a multiple of STEP, see padded
    group   weights per group, a multiple of STEP or at least cols
    scales  halves as uint16 (groups,); mins the same, or empty when symmetric
    q       uint8 (cols,) with the same room: codes, one per byte, written; zero beyond cols
    sums    float64 (COLUMNS,), written: weight i counts in lane i % LANES, lanes added in order
    """
    lanes = np.zeros((COLUMNS, LANES), np.float64)
    zero = (1 << (bits - 1)) if symmetric else 0
    low = np.float32(0.0)
    for g in range(scales.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        if not symmetric:
            low = single1(mins[g])
        rule = rule1(single1(scales[g]), low, zero, (1 << bits) - 1)
        encode_lanes(w, q, lanes, start, stop, rule)
    for c in range(COLUMNS):
        total = lanes[c, 0]
        for lane in range(1, LANES):
            total = max(total, lanes[c, lane]) if c == MAX else total + lanes[c, lane]
        sums[c] = total

"""Codes of weights once the stored scale and minimum are known, and the errors they make.

Stored code u, scale s and minimum m (float16 values held as float32), zero point z:

    asymmetric   z = 0             v = s u + m
    symmetric    z = 2^(bits - 1)  v = s (u - z)        (m = 0)

    u = clip(floor((w - m) * (1 / s) + z + 1/2), 0, 2^bits - 1)

in float32, every operation rounded; s = 0 gives u = z. Ties go up. s (u - z) has at most 11 + 8
significant bits and is exact, so v is rounded once, with or without fused multiply-add.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel
from kernels.fidelity import COLUMNS, E2, MAX, Q2, W2, WQ
from kernels.half import single1
from kernels.lanes import LANES, STEP, encode_lanes, error_lanes


@inlined
def inverse1(scale: np.float32) -> np.float32:
    """1 / scale, or 0 for a zero scale."""
    return np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)


@inlined
def code1(
    w: np.float32, inverse: np.float32, low: np.float32, zero: Integer, top: Integer
) -> np.int32:
    """Code of one weight; top is 2^bits - 1."""
    t = np.float32(np.float32(np.float32(w - low) * inverse) + np.float32(zero + 0.5))
    return np.int32(min(max(t, np.float32(0.0)), np.float32(top)))


@inlined
def value1(u: np.int32, scale: np.float32, low: np.float32, zero: Integer) -> np.float64:
    """Decoded weight of one code, rounded to float32."""
    return np.float64(np.float32(np.float32(scale * np.float32(u - zero)) + low))


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
    """Sum of e^2 if w[start:stop] were encoded with scale and low; start is a multiple of STEP."""
    inverse = inverse1(scale)
    whole = start + (stop - start) // STEP * STEP
    total = error_lanes(
        w,
        start,
        whole,
        scale,
        inverse,
        low,
        np.float32(zero + 0.5),
        np.float32(top),
        np.int32(zero),
    )
    for i in range(whole, stop):
        e = np.float64(w[i]) - value1(code1(w[i], inverse, low, zero, top), scale, low, zero)
        total += e * e
    return total


@inlined
def encode_group(
    w: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    scale: np.float32,
    low: np.float32,
    zero: Integer,
    top: Integer,
    q: NDArray[np.uint8],
    lanes: NDArray[np.float64],
) -> None:
    """Write the codes of w[start:stop] to q[start:stop] and add the errors to lanes.

    start   a multiple of STEP
    lanes   float64 (COLUMNS, LANES); weight i counts in lane i % LANES
    """
    inverse = inverse1(scale)
    whole = start + (stop - start) // STEP * STEP
    encode_lanes(
        w,
        q,
        lanes,
        start,
        whole,
        scale,
        inverse,
        low,
        np.float32(zero + 0.5),
        np.float32(top),
        np.int32(zero),
    )
    for i in range(whole, stop):
        u = code1(w[i], inverse, low, zero, top)
        q[i] = np.uint8(u)
        x, v = np.float64(w[i]), value1(u, scale, low, zero)
        lane = i % LANES
        lanes[W2, lane] += x * x
        lanes[E2, lane] += (x - v) * (x - v)
        lanes[WQ, lane] += x * v
        lanes[Q2, lane] += v * v
        lanes[MAX, lane] = max(lanes[MAX, lane], abs(x - v))


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

    w       float32 (cols,), finite
    group   weights per group, a multiple of STEP or at least cols
    scales  halves as uint16 (groups,); mins the same, or empty when symmetric
    q       uint8 (>= cols,), codes, one per byte, written
    sums    float64 (COLUMNS,), written: lanes added in order
    """
    lanes = np.zeros((COLUMNS, LANES), np.float64)
    zero = (1 << (bits - 1)) if symmetric else 0
    low = np.float32(0.0)
    for g in range(scales.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        if not symmetric:
            low = single1(mins[g])
        encode_group(w, start, stop, single1(scales[g]), low, zero, (1 << bits) - 1, q, lanes)
    for c in range(COLUMNS):
        total = lanes[c, 0]
        for lane in range(1, LANES):
            total = max(total, lanes[c, lane]) if c == MAX else total + lanes[c, lane]
        sums[c] = total

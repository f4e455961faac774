"""Codes of a group once its stored scale and minimum are known, and the errors they make.

Stored code u, scale s and minimum m (float16 values held as float32), zero point z:

    asymmetric   z = 0             v = s u + m
    symmetric    z = 2^(bits - 1)  v = s (u - z)        (m = 0)

    u = clip(floor((w - m) / s + z + 1/2), 0, 2^bits - 1)

in float32, with 1 / s rounded once; s = 0 gives u = z. Ties go up. s (u - z) has at most 11 + 8
significant bits and is exact, so v is rounded once, with or without fused multiply-add.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.fidelity import E2, MAX, Q2, W2, WQ


@kernel
def inverse1(scale: np.float32) -> np.float32:
    """1 / scale, or 0 for a zero scale."""
    return np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)


@kernel
def code_group(
    w: NDArray[np.float32],
    start: int,
    stop: int,
    scale: np.float32,
    low: np.float32,
    zero: int,
    top: int,
    q: NDArray[np.uint8],
) -> None:
    """Write the codes of w[start:stop] to q[start:stop]; top is 2^bits - 1."""
    inverse = inverse1(scale)
    offset = np.float32(zero + 0.5)
    ceiling = np.float32(top)
    for i in range(start, stop):
        t = np.float32(np.float32(np.float32(w[i] - low) * inverse) + offset)
        t = t if t > np.float32(0.0) else np.float32(0.0)
        t = t if t < ceiling else ceiling
        q[i] = np.uint8(np.int32(t))


@kernel
def error_group(
    w: NDArray[np.float32],
    start: int,
    stop: int,
    scale: np.float32,
    low: np.float32,
    zero: int,
    q: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Write the error sums (COLUMNS,) of w[start:stop] against codes q[start:stop].

    Weights are dealt to four lanes in turn; lanes are added pairwise at the end. The order is
    part of the result and does not depend on the processor.
    """
    a0 = a1 = a2 = a3 = 0.0
    b0 = b1 = b2 = b3 = 0.0
    c0 = c1 = c2 = c3 = 0.0
    d0 = d1 = d2 = d3 = 0.0
    largest = 0.0
    i = start
    while i < stop:
        w0, v0, w1, v1, w2, v2, w3, v3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        w0 = np.float64(w[i])
        v0 = np.float64(np.float32(np.float32(scale * np.float32(np.int32(q[i]) - zero)) + low))
        if i + 1 < stop:
            w1 = np.float64(w[i + 1])
            v1 = np.float64(
                np.float32(np.float32(scale * np.float32(np.int32(q[i + 1]) - zero)) + low)
            )
        if i + 2 < stop:
            w2 = np.float64(w[i + 2])
            v2 = np.float64(
                np.float32(np.float32(scale * np.float32(np.int32(q[i + 2]) - zero)) + low)
            )
        if i + 3 < stop:
            w3 = np.float64(w[i + 3])
            v3 = np.float64(
                np.float32(np.float32(scale * np.float32(np.int32(q[i + 3]) - zero)) + low)
            )
        e0, e1, e2, e3 = w0 - v0, w1 - v1, w2 - v2, w3 - v3
        a0, a1, a2, a3 = a0 + w0 * w0, a1 + w1 * w1, a2 + w2 * w2, a3 + w3 * w3
        b0, b1, b2, b3 = b0 + e0 * e0, b1 + e1 * e1, b2 + e2 * e2, b3 + e3 * e3
        c0, c1, c2, c3 = c0 + w0 * v0, c1 + w1 * v1, c2 + w2 * v2, c3 + w3 * v3
        d0, d1, d2, d3 = d0 + v0 * v0, d1 + v1 * v1, d2 + v2 * v2, d3 + v3 * v3
        largest = max(largest, max(max(abs(e0), abs(e1)), max(abs(e2), abs(e3))))
        i += 4
    sums[W2] = (a0 + a1) + (a2 + a3)
    sums[E2] = (b0 + b1) + (b2 + b3)
    sums[WQ] = (c0 + c1) + (c2 + c3)
    sums[Q2] = (d0 + d1) + (d2 + d3)
    sums[MAX] = largest


@kernel
def add_sums(row: NDArray[np.float64], part: NDArray[np.float64]) -> None:
    """Add the error sums of a group to those of its row."""
    for c in range(MAX):
        row[c] += part[c]
    row[MAX] = max(row[MAX], part[MAX])

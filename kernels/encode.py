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

from kernels._jit import Integer, kernel
from kernels.fidelity import COLUMNS, E2, MAX, Q2, W2, WQ
from kernels.lanes import LANES, encode_lanes


@kernel
def encode_group(
    w: NDArray[np.float32],
    scale: np.float32,
    low: np.float32,
    zero: Integer,
    top: Integer,
    q: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Encode one group.

    w       float32 (n,), finite
    scale   any finite value; low finite, 0 when symmetric
    zero    zero point z; top is 2^bits - 1
    q       uint8 (n,), codes, written
    sums    float64 (COLUMNS,), error sums of the group, written. Whole runs of LANES weights are
            added as in lanes, what is left over in order after them.
    """
    inverse = np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)
    offset = np.float32(zero + 0.5)
    ceiling = np.float32(top)
    w2, e2, wq, q2, largest = encode_lanes(
        w, q, scale, inverse, low, offset, ceiling, np.int32(zero)
    )
    for i in range(w.size // LANES * LANES, w.size):
        t = np.float32(np.float32(np.float32(w[i] - low) * inverse) + offset)
        u = np.int32(min(max(t, np.float32(0.0)), ceiling))
        q[i] = np.uint8(u)
        x = np.float64(w[i])
        v = np.float64(np.float32(np.float32(scale * np.float32(u - zero)) + low))
        w2 += x * x
        e2 += (x - v) * (x - v)
        wq += x * v
        q2 += v * v
        largest = max(largest, abs(x - v))
    sums[W2], sums[E2], sums[WQ], sums[Q2], sums[MAX] = w2, e2, wq, q2, largest


@kernel
def add_sums(row: NDArray[np.float64], part: NDArray[np.float64]) -> None:
    """Add the error sums of a group to those of its row."""
    for c in range(COLUMNS):
        row[c] = max(row[c], part[c]) if c == MAX else row[c] + part[c]

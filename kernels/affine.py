"""Codes back to weights.

    asymmetric   v = s u + m
    symmetric    v = s (u - 2^(bits - 1))

in float32, s and m being float16 values widened. The product has at most 11 + 8 significant bits
and is exact; the sum is rounded once. The bytes are therefore the same with or without fused
multiply-add, on every processor and in any language that has IEEE 754 float32.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.bitpack import unpack_row
from kernels.half import single1


@kernel
def dequantize_rows(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    bits: int,
    group: int,
    symmetric: bool,
    out: NDArray[np.float32],
) -> None:
    """Decode a block of rows.

    codes   uint8 (rows, ceil(cols * bits / 8)), see bitpack
    scales  halves as uint16 (rows, groups), finite
    mins    the same; (rows, 0) when symmetric
    group   weights per group, > 0
    out     float32 (rows, cols), written
    """
    rows, cols = out.shape
    q = np.empty(cols, np.uint8)
    zero = 1 << (bits - 1)
    for r in range(rows):
        unpack_row(codes[r], bits, q)
        for g in range(scales.shape[1]):
            start, stop = g * group, min((g + 1) * group, cols)
            s = single1(scales[r, g])
            if symmetric:
                for c in range(start, stop):
                    out[r, c] = np.float32(s * np.float32(np.int32(q[c]) - zero))
            else:
                m = single1(mins[r, g])
                for c in range(start, stop):
                    out[r, c] = np.float32(np.float32(s * np.float32(np.int32(q[c]))) + m)

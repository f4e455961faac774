"""Round to nearest over one range for the whole tensor, found beforehand.

The scale and minimum follow the rules of minmax for the given range; weights outside of it are
clipped.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, kernel
from kernels.bitpack import pack_row
from kernels.encode import encode_group
from kernels.half import single1
from kernels.ranges import finite1, key_range
from kernels.widen import first_nonfinite, widen_row


@kernel
def quantize_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    symmetric: bool,
    scale: Integer,
    low: Integer,
    codes: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> int:
    """Quantize a block of rows with one scale and minimum, given as halves.

    Arrays and result as in minmax.quantize_rows.
    """
    rows, cols = x.shape
    w = np.empty(cols, np.float32)
    q = np.zeros((cols + 7) // 8 * 8, np.uint8)
    zero = (1 << (bits - 1)) if symmetric else 0
    s, m = single1(scale), single1(low)
    for r in range(rows):
        widen_row(x[r], kind, w)
        low_key, high_key = key_range(w)
        if not finite1(low_key, high_key):
            return int(r * cols + first_nonfinite(w))
        encode_group(w, s, m, zero, (1 << bits) - 1, q[:cols], sums[r])
        pack_row(q, bits, codes[r])
    return -1

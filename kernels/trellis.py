"""Trellis codes: every weight has a window of 12 bits, of which it shares all but a few.

The codes of a row are n numbers of b = 2, 3 or 4 bits in a dense stream (layout in bitpack), n being
cols rounded up to whole bytes and at least 12 bits: to a multiple of 4, 8, 2 and to at least 8, 8, 4.
The stream is a circle: after its last bit comes its first. The window W of weight c is the number in
the bits [c b, c b + 12) of the circle, least significant bit first, and with the level L (see trelliscode)
and the scale s of the row

    v = s L(W) / 1024

in float32, s being a float16 value widened. s has at most 11 significant bits and L 12: v is exact.
The codes from cols on belong to no weight; they are there to be in windows.

Each step from a weight to the one before it shifts b new bits into the window, so of 4096 levels only 2^b
can be next, and which they are depends on the 12 - b bits before. The encoder looks for the path
through all windows with the least squared error (see viterbi and trellisrows), which spends b bits on a weight and comes
close to what rate distortion theory allows: on Gaussian weights 11.58, 17.50 and 23.38 dB at 2, 3 and 4 bits,
where the bound is 12.04, 18.06 and 24.08 and the best scalar codes have 9.30, 14.62 and 20.22. It is made for rows that are
close to Gaussian with one scale: weights should be rotated before (see hadamard).

Bits per weight: 8 n / cols plus 16 / cols for the scale.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.blocks import over_rows
from kernels.engine import refuse
from kernels.fidelity import COLUMNS, ErrorSums, fold_rows
from kernels.trelliscode import WINDOW, table_for, values_for
from kernels.trellisrows import dequantize_trellis_rows, quantize_trellis_rows
from kernels.widen import KINDS, Dtype, patterns

_WHOLE = {2: 4, 3: 8, 4: 2}  # codes that fill whole bytes


@dataclass(frozen=True, slots=True)
class EncodedTrellis:
    """A quantized tensor of trellis codes.

    codes     uint8 (rows, trellis_bytes(cols, bits))
    scales    float16 (rows,), finite
    errors    sums over all weights, measured on the values as stored
    weighted  the same sums, every product times the importance of its column; None without
              importances
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    errors: ErrorSums
    weighted: ErrorSums | None = None


def trellis_bytes(cols: int, bits: int) -> int:
    """Bytes of the codes of a row."""
    whole = _WHOLE[bits]
    least = -(-WINDOW // bits)
    return -(-max(cols, least) // whole) * whole * bits // 8


def quantize_trellis(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    bits: int,
    unbias: float = 0.0,
    weights: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> EncodedTrellis:
    """Quantize the rows of a matrix, each with one scale.

    bits     2, 3 or 4
    unbias   share, 0 to 1, of each row's loss of length that its scale takes back, see unbiased
    weights  importance of every column, float32 (cols,), finite and not negative, by which squared
             errors count, see importance; None: all the same. In the search, importances above 64
             times their mean, at 3 and 4 bits 16 times, count as that
    Other arguments and errors as engine.quantize.
    """
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    codes = np.empty((rows, trellis_bytes(cols, bits)), np.uint8)
    scales = np.empty(rows, np.float16)
    sums = np.empty((rows, COLUMNS), np.float64)
    weighted = np.empty((rows, 0 if weights is None else COLUMNS), np.float64)
    values, table = values_for(bits), table_for(bits)

    def work(part: slice) -> int:
        return quantize_trellis_rows(
            bit_patterns[part],
            kind,
            bits,
            values,
            table,
            weights,
            float(unbias),
            codes[part],
            scales[part].view(np.uint16),
            sums[part],
            weighted[part],
        )

    refuse(x, dtype, over_rows(work, rows, cols, threads))
    return EncodedTrellis(
        codes,
        scales,
        fold_rows(sums, cols),
        None if weights is None else fold_rows(weighted, cols),
    )


def dequantize_trellis(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16],
    *,
    bits: int,
    cols: int,
    threads: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Decode what quantize_trellis returned.

    codes, scales  as in EncodedTrellis
    bits, cols     as given to quantize_trellis
    out            float32 (rows, cols) to write to, C order; a new array if None
    Result         out; the same bytes everywhere
    """
    rows = codes.shape[0]
    result = np.empty((rows, cols), np.float32) if out is None else out
    halves, values = scales.view(np.uint16), values_for(bits)

    def work(part: slice) -> int:
        dequantize_trellis_rows(codes[part], halves[part], bits, values, result[part])
        return -1

    over_rows(work, rows, cols, threads)
    return result

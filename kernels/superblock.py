"""Two levels of scales: small groups whose scales are codes themselves.

A row is cut into super-blocks of 256 weights and these into groups of 16 or 32; the last ones of a
row may be shorter. With the level L of a weight's code (see levels), the scale code S and the centre
code M of its group, of scale_bits = 4 or 6 bits each, and the pair (d, dm) of its super-block:

    v = s L + c,   s = d S / 2^(scale_bits + n),   c = dm (M / 2^(scale_bits - 1) - 1)

in float32, d and dm being float16 values widened; n = 3, 6, 7 for 2, 3, 4 bits, so that |L| < 2^n and
d is about the largest weight, dm the largest centre. d S L has at most 11 + 6 + 7 significant bits
and c has 11 + 6: both are exact in any order, so the sum is rounded once, and the bytes are the same
with or without fused multiply-add. Codes are those of the levels nearest to (w - c) (1 / s), every
operation rounded to float32, ties to the larger code; 1 / 0 counts as 0. d and dm saturate at 65504,
which shows as a large error.

Bits per weight of whole super-blocks: bits + 2 scale_bits / group_size + 32 / 256, which is 4.5 for
4 bits in groups of 32 with 6-bit scales, 2.625 for 2 bits in groups of 16 with 4-bit scales, and
2.375 for 2 bits in groups of 32 with 4-bit scales.

A centre instead of a minimum: it is small against the range, so its few bits weigh less. Measured
the same as minima at 2 bits, and the levels, being symmetric, need no offset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.bitpack import row_bytes
from kernels.blocks import over_rows
from kernels.engine import refuse
from kernels.fidelity import COLUMNS, ErrorSums, fold_rows
from kernels.levels import curve_for, grains_for, levels_for
from kernels.superencode import BLOCK
from kernels.superfit import starts_for
from kernels.superrows import dequantize_super_rows, quantize_super_rows
from kernels.widen import KINDS, Dtype, patterns


@dataclass(frozen=True, slots=True)
class EncodedSuper:
    """A quantized tensor with scales of two levels.

    codes        uint8 (rows, ceil(cols * bits / 8)), layout in bitpack
    scale_codes  uint8 (rows, ceil(groups * scale_bits / 8)), the same layout
    min_codes    uint8, shape of scale_codes: centre codes
    d, dm        float16 (rows, super-blocks), finite; d >= 0, dm may be negative
    errors       sums over all weights, measured on the values as stored
    weighted     the same sums, every product times the importance of its column; None without
                 importances
    """

    codes: NDArray[np.uint8]
    scale_codes: NDArray[np.uint8]
    min_codes: NDArray[np.uint8]
    d: NDArray[np.float16]
    dm: NDArray[np.float16]
    errors: ErrorSums
    weighted: ErrorSums | None = None


def quantize_superblock(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    bits: int,
    group_size: int,
    scale_bits: int,
    unbias: float = 0.0,
    weights: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> EncodedSuper:
    """Quantize the rows of a matrix with codes for scales; the fit is in superfit.

    bits        2, 3 or 4
    group_size  16 or 32
    scale_bits  4 or 6
    unbias      share, 0 to 1, of each row's loss of length that d and dm take back, see unbiased
    weights     importance of every column, float32 (cols,), finite and not negative, by which
                squared errors count in the fit; None: all the same
    Other arguments and errors as engine.quantize.
    """
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    group_bytes = row_bytes(-(-cols // group_size), scale_bits)
    codes = np.empty((rows, row_bytes(cols, bits)), np.uint8)
    scale_codes, min_codes = (np.empty((rows, group_bytes), np.uint8) for _ in range(2))
    d, dm = (np.empty((rows, -(-cols // BLOCK)), np.float16) for _ in range(2))
    sums = np.empty((rows, COLUMNS), np.float64)
    weighted = np.empty((rows, 0 if weights is None else COLUMNS), np.float64)
    starts, levels, curve = starts_for(bits, group_size), levels_for(bits), curve_for(bits)
    grains = grains_for(bits, scale_bits)

    def work(part: slice) -> int:
        return quantize_super_rows(
            bit_patterns[part],
            kind,
            bits,
            group_size,
            scale_bits,
            starts,
            levels,
            grains,
            curve,
            weights,
            float(unbias),
            codes[part],
            scale_codes[part],
            min_codes[part],
            d[part].view(np.uint16),
            dm[part].view(np.uint16),
            sums[part],
            weighted[part],
        )

    refuse(x, dtype, over_rows(work, rows, cols, threads))
    return EncodedSuper(
        codes,
        scale_codes,
        min_codes,
        d,
        dm,
        fold_rows(sums, cols),
        None if weights is None else fold_rows(weighted, cols),
    )


def dequantize_superblock(
    codes: NDArray[np.uint8],
    scale_codes: NDArray[np.uint8],
    min_codes: NDArray[np.uint8],
    d: NDArray[np.float16],
    dm: NDArray[np.float16],
    *,
    bits: int,
    cols: int,
    group_size: int,
    scale_bits: int,
    threads: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Decode what quantize_superblock returned.

    codes .. dm                         as in EncodedSuper
    cols, bits, group_size, scale_bits  as given to quantize_superblock
    out                                 float32 (rows, cols) to write to, C order; a new array if None
    Result                              out; the same bytes everywhere
    """
    rows = codes.shape[0]
    result = np.empty((rows, cols), np.float32) if out is None else out
    steps, mid_steps = d.view(np.uint16), dm.view(np.uint16)
    levels, grains, curve = levels_for(bits), grains_for(bits, scale_bits), curve_for(bits)

    def work(part: slice) -> int:
        dequantize_super_rows(
            codes[part],
            scale_codes[part],
            min_codes[part],
            steps[part],
            mid_steps[part],
            bits,
            group_size,
            scale_bits,
            levels,
            grains,
            curve,
            result[part],
        )
        return -1

    over_rows(work, rows, cols, threads)
    return result

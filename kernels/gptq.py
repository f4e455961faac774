"""Rounding that knows the second moments of the layer's inputs: GPTQ with least-squares scales.

    factor = gptq_factor(moments, cols=cols, damp=0.01, act_order=False)      once for each layer input
    encoded = quantize_gptq(x, ..., factor=factor)                            for each tile of rows
    encoded = quantize_gptq_superblock(x, ..., factor=factor)                 with scales of two levels

The factor is in factor, the rounding in gptqrows. Rows do not depend on each other, so that tiles may be
cut anywhere. Products are our own (see tiles): bytes do not depend on threads, BLAS or its threads.
"""

import numpy as np
from numpy.typing import NDArray

from kernels import lsq
from kernels.bitpack import row_bytes
from kernels.blocks import over_tiles
from kernels.engine import Encoded, Method, refuse
from kernels.factor import Factor
from kernels.fidelity import COLUMNS, ErrorSums, fold_rows
from kernels.gptqrows import TALL, quantize_gptq_rows
from kernels.gptqsuper import grid_for
from kernels.superblock import EncodedSuper
from kernels.superencode import BLOCK
from kernels.widen import KINDS, Dtype, patterns

NONE = np.empty(0, np.float32)


def quantize_gptq(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    bits: int,
    group_size: int,
    symmetric: bool,
    factor: Factor,
    method: Method = "lsq",
    threads: int = 1,
) -> Encoded:
    """Quantize the rows of a matrix so that the layer's outputs change least.

    factor      of the second moments of the layer's inputs, see factor.gptq_factor
    method      how scales are found: "lsq" by least squares weighted with the diagonal of the moments,
                or "minmax"
    Result      codes as of engine.quantize, for engine.dequantize; `weighted` are the sums by the
                diagonal of the moments. For the error of the output see output.output_sums
    Other arguments and errors as engine.quantize; ValueError when the factor is for other columns.
    Memory      besides the factor, for each thread 64 rows in float32, twice, and their codes
    """
    rows, cols = x.shape
    group = group_size or cols
    scales = np.empty((rows, -(-cols // group)), np.float16)
    mins = np.empty((rows, 0 if symmetric else scales.shape[1]), np.float16)
    slopes = NONE if method == "minmax" else lsq.slopes_for(bits, group, symmetric)
    nothing = np.empty((rows, 0), np.uint8)
    codes, sums, weighted = _rounded(
        x,
        dtype,
        bits,
        group,
        symmetric,
        slopes,
        0,
        factor,
        (nothing, nothing),
        (scales, mins),
        threads,
    )
    return Encoded(codes, scales, None if symmetric else mins, sums, weighted)


def quantize_gptq_superblock(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    bits: int,
    group_size: int,
    scale_bits: int,
    factor: Factor,
    threads: int = 1,
) -> EncodedSuper:
    """The same with scales of two levels, fitted by the diagonal of the moments.

    Result   as of superblock.quantize_superblock, for superblock.dequantize_superblock
    Arguments, errors and memory as quantize_gptq and superblock.quantize_superblock
    """
    rows, cols = x.shape
    group_bytes = row_bytes(-(-cols // group_size), scale_bits)
    scale_codes, min_codes = (np.empty((rows, group_bytes), np.uint8) for _ in range(2))
    d, dm = (np.empty((rows, -(-cols // BLOCK)), np.float16) for _ in range(2))
    codes, sums, weighted = _rounded(
        x, dtype, bits, group_size, False, NONE, scale_bits, factor, (scale_codes, min_codes), (d, dm),
        threads,
    )  # fmt: skip
    return EncodedSuper(codes, scale_codes, min_codes, d, dm, sums, weighted)


def _rounded(
    x: NDArray[np.generic],
    dtype: Dtype,
    bits: int,
    group: int,
    symmetric: bool,
    slopes: NDArray[np.float32],
    scale_bits: int,
    factor: Factor,
    group_codes: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    halves: tuple[NDArray[np.float16], NDArray[np.float16]],
    threads: int,
) -> tuple[NDArray[np.uint8], ErrorSums, ErrorSums]:
    """Codes and error sums; what goes with the codes is written to group_codes and halves."""
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    if factor.cols != cols:
        raise ValueError(f"a factor for {factor.cols} columns does not fit {cols}")
    codes, grid = (
        np.empty((rows, row_bytes(cols, bits)), np.uint8),
        grid_for(bits, group, scale_bits),
    )
    sums, weighted = (np.empty((rows, COLUMNS), np.float64) for _ in range(2))
    stops: dict[int, int] = {}

    def work(tile: int) -> None:
        part = slice(tile * TALL, min((tile + 1) * TALL, rows))
        stop = quantize_gptq_rows(
            bit_patterns[part],
            kind,
            bits,
            group,
            symmetric,
            slopes,
            grid,
            factor.importance,
            factor.order,
            factor.act_order,
            factor.block,
            factor.packed,
            codes[part],
            group_codes[0][part],
            group_codes[1][part],
            halves[0][part].view(np.uint16),
            halves[1][part].view(np.uint16),
            sums[part],
            weighted[part],
        )
        if stop >= 0:
            stops[part.start] = stop

    over_tiles(work, -(-rows // TALL), threads)
    if stops:
        first = min(stops)
        row, col = divmod(stops[first], cols)
        refuse(x, dtype, (first + row, col))
    return codes, fold_rows(sums, cols), fold_rows(weighted, cols)

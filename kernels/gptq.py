"""Rounding that knows the second moments of the layer's inputs: GPTQ with least-squares scales.

    factor = gptq_factor(moments, cols=cols, damp=0.01, act_order=False)      once for each layer input
    encoded = quantize_gptq(x, ..., factor=factor)                            for each tile of rows

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
from kernels.fidelity import COLUMNS, fold_rows
from kernels.gptqrows import TALL, quantize_gptq_rows
from kernels.widen import KINDS, Dtype, patterns


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
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    if factor.cols != cols:
        raise ValueError(f"a factor for {factor.cols} columns does not fit {cols}")
    group = group_size or cols
    codes = np.empty((rows, row_bytes(cols, bits)), np.uint8)
    scales = np.empty((rows, -(-cols // group)), np.float16)
    mins = np.empty((rows, 0 if symmetric else scales.shape[1]), np.float16)
    sums, weighted = (np.empty((rows, COLUMNS), np.float64) for _ in range(2))
    slopes = (
        np.empty(0, np.float32) if method == "minmax" else lsq.slopes_for(bits, group, symmetric)
    )
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
            factor.importance,
            factor.order,
            factor.act_order,
            factor.block,
            factor.packed,
            codes[part],
            scales[part].view(np.uint16),
            mins[part].view(np.uint16),
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
    return Encoded(
        codes,
        scales,
        None if symmetric else mins,
        fold_rows(sums, cols),
        fold_rows(weighted, cols),
    )

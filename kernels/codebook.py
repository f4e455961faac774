"""Codes that stand for the levels of a table instead of even steps.

With the levels L of a codebook (see codebooks) and a scale s for each group, a float16 value:

    v = s L_u,   u = the number of edges that w (1 / s) reaches,   edge_k = (L_k + L_(k+1)) / 2

in float32, every operation rounded; 1 / 0 counts as 0. Ties go up. A value is rounded once, and the
same on every processor.

Scales are absmax (the largest weight at a level of size 1), or searched: from absmax and from a few
multiples of the ratio of root mean squares, codes and the scale of least squares

    s = sum h w L / sum h L^2

are found from each other REFITS times (h: importances of columns, or 1; both signs of s if the levels
are not symmetric). The smallest squared error as stored wins, absmax among them.

Source: Lloyd, Least squares quantization in PCM, 1982; absmax scales: Dettmers et al., QLoRA, 2023.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.bitpack import row_bytes
from kernels.blocks import over_rows
from kernels.codebookrows import dequantize_codebook_rows, quantize_codebook_rows
from kernels.codebooks import code_bits, edges_for
from kernels.engine import refuse
from kernels.fidelity import COLUMNS, ErrorSums, fold_rows
from kernels.widen import KINDS, Dtype, patterns

# Where the search starts: multiples of the ratio of root mean squares.
RATIOS = (0.7, 0.85, 1.0, 1.2, 1.5)


@dataclass(frozen=True, slots=True)
class EncodedCodebook:
    """A quantized tensor whose codes stand for levels.

    codes     uint8 (rows, ceil(cols * bits / 8)), layout in bitpack; bits as codebooks.code_bits
    scales    float16 (rows, groups), finite; negative only if the levels are not symmetric
    levels    float32 (levels,), rising: value of every code for scale 1
    errors    sums over all weights, measured on the values as stored
    weighted  the same sums, every product times the importance of its column; None without
              importances
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    levels: NDArray[np.float32]
    errors: ErrorSums
    weighted: ErrorSums | None = None


def starts_for(levels: NDArray[np.float32], search: bool) -> NDArray[np.float64]:
    """Starts of the search, as multiples of root mean squares; empty for absmax scales."""
    if not search:
        return np.empty(0, np.float64)
    wide = levels.astype(np.float64)
    starts = np.array(RATIOS) / np.sqrt(np.mean(np.square(wide)))
    return starts if np.array_equal(wide, -wide[::-1]) else np.concatenate([starts, -starts])


def quantize_codebook(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    levels: NDArray[np.float32],
    group_size: int,
    search: bool = True,
    weights: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> EncodedCodebook:
    """Quantize the rows of a matrix to the levels of a codebook.

    levels      float32 (2 .. 256,), rising, finite, see codebooks
    search      whether scales are searched; else they are those of the largest weight
    weights     importance of every column, float32 (cols,), finite and not negative, by which
                squared errors count in the search; None: all the same
    Other arguments and errors as engine.quantize, and ValueError for what is no codebook.
    """
    edges, bits = edges_for(levels), code_bits(levels.size)
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    group = group_size or cols
    codes = np.empty((rows, row_bytes(cols, bits)), np.uint8)
    scales = np.empty((rows, -(-cols // group)), np.float16)
    sums = np.empty((rows, COLUMNS), np.float64)
    weighted = np.empty((rows, 0 if weights is None else COLUMNS), np.float64)
    table, starts = np.array(levels, np.float32), starts_for(levels, search)

    def work(part: slice) -> int:
        return quantize_codebook_rows(
            bit_patterns[part],
            kind,
            bits,
            group,
            table,
            edges,
            starts,
            weights,
            codes[part],
            scales[part].view(np.uint16),
            sums[part],
            weighted[part],
        )

    refuse(x, dtype, over_rows(work, rows, cols, threads))
    return EncodedCodebook(
        codes,
        scales,
        table,
        fold_rows(sums, cols),
        None if weights is None else fold_rows(weighted, cols),
    )


def dequantize_codebook(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16],
    levels: NDArray[np.float32],
    *,
    cols: int,
    group_size: int,
    threads: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Decode what quantize_codebook returned.

    codes, scales, levels   as in EncodedCodebook
    cols, group_size        as given to quantize_codebook
    out                     float32 (rows, cols) to write to, C order; a new array if None
    Result                  out; the same bytes everywhere. A code without a level has the value 0
    """
    rows = codes.shape[0]
    result = np.empty((rows, cols), np.float32) if out is None else out
    bits = code_bits(levels.size)
    table = np.zeros(1 << bits, np.float32)
    table[: levels.size] = levels
    scale_bits = scales.view(np.uint16)

    def work(part: slice) -> int:
        dequantize_codebook_rows(
            codes[part], scale_bits[part], bits, group_size or cols, table, result[part]
        )
        return -1

    over_rows(work, rows, cols, threads)
    return result

"""The functions the rest of the product calls: whole tensors, any number of threads.

Arguments are taken as they come: the caller has checked them against its limits. Bytes and sums
are the same at any number of threads.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels import affine, lsq, minmax
from kernels.bitpack import row_bytes
from kernels.blocks import BLOCK_WEIGHTS, MOST_WEIGHTS, over_rows
from kernels.errors import NonFiniteWeights
from kernels.fidelity import COLUMNS, ErrorSums, fold_rows
from kernels.nearest import quantize_rows_nearest, whole
from kernels.ranges import range_rows
from kernels.rows import quantize_rows, quantize_rows_fixed
from kernels.widen import KINDS, Dtype, patterns, widen

Method = Literal["minmax", "lsq"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A quantized tensor.

    codes   uint8 (rows, ceil(cols * bits / 8)), layout in bitpack
    scales  float16 (rows, groups), or (1, 1) with one range per tensor; finite, may be negative
            when symmetric
    mins    float16, shape of scales; None when symmetric
    errors  sums over all weights, measured on the values as stored
    weighted    the same sums, every product times the importance of its column; None without
                importances
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    mins: NDArray[np.float16] | None
    errors: ErrorSums
    weighted: ErrorSums | None = None


def refuse(x: NDArray[np.generic], dtype: Dtype, position: tuple[int, int] | None) -> None:
    """Raise NonFiniteWeights if there is a position."""
    if position is not None:
        row, col = position
        value = float(widen(x[row : row + 1, col : col + 1], dtype)[0, 0])
        raise NonFiniteWeights(row, col, value)


def _room(
    rows: int, width: int, groups: int, symmetric: bool, out: Encoded | None
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float16]]:
    """Codes (rows, width), scales and minima (rows, groups) to write to; no minima if symmetric."""
    none = np.empty((rows, 0), np.float16)
    if out is None:
        codes, scales = np.empty((rows, width), np.uint8), np.empty((rows, groups), np.float16)
        return codes, scales, none if symmetric else np.empty_like(scales)
    shapes = (out.codes.shape[1], out.scales.shape[1], out.mins is None)
    if shapes != (width, groups, symmetric) or len(out.codes) < rows:
        raise ValueError(f"the room is for {out.codes.shape} bytes of codes, not {(rows, width)}")
    return out.codes[:rows], out.scales[:rows], none if out.mins is None else out.mins[:rows]


def quantize(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    bits: int,
    group_size: int,
    symmetric: bool,
    method: Method,
    unbias: float = 0.0,
    weights: NDArray[np.float32] | None = None,
    threads: int = 1,
    out: Encoded | None = None,
) -> Encoded:
    """Quantize the rows of a matrix in groups of consecutive weights.

    x           (rows, cols), C order, may be read-only: uint16 bit patterns for BF16 and F16,
                float32 for F32; cols >= 1
    bits        2, 3, 4 or 8
    group_size  weights per group, a multiple of 8, or 0 for one group per row; the last group of a
                row may be shorter
    symmetric   codes around zero and no minimum; else a scale and a minimum per group
    method      "lsq" (least-squares search, see lsq) or "minmax" (see minmax)
    unbias      lsq only: share, 0 to 1, of each row's loss of length that scales and minima take
                back, see unbiased; 0 is the plain least-squares fit
    weights     lsq only: importance of every column, float32 (cols,), finite and not negative, by
                which squared errors count in the fit, see importance; None: all the same
    threads     threads at work, the calling one included
    out         an earlier result with the same columns and settings and at least as many rows, no
                longer wanted: its first rows are written to and returned, and nothing is allocated
                (new memory costs as much again as quantizing to it). None: new arrays
    Errors      NonFiniteWeights for the first NaN or Inf in row-major order
    Formula     see encode; values beyond float16 saturate, see minmax
    """
    if method == "minmax" and (unbias or weights is not None):
        raise ValueError("unbias and weights are for lsq")
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    group = group_size or cols
    codes, scales, mins = _room(rows, row_bytes(cols, bits), -(-cols // group), symmetric, out)
    sums = np.empty((rows, COLUMNS), np.float64)
    weighted = np.empty((rows, 0 if weights is None else COLUMNS), np.float64)

    slopes = (
        np.empty(0, np.float32) if method == "minmax" else lsq.slopes_for(bits, group, symmetric)
    )

    def nearest(part: slice) -> int:
        return quantize_rows_nearest(
            bit_patterns[part],
            kind,
            bits,
            group,
            symmetric,
            codes[part],
            scales[part].view(np.uint16),
            mins[part].view(np.uint16),
            sums[part],
        )

    def searched(part: slice) -> int:
        return quantize_rows(
            bit_patterns[part],
            kind,
            bits,
            group,
            symmetric,
            slopes,
            weights,
            float(unbias),
            codes[part],
            scales[part].view(np.uint16),
            mins[part].view(np.uint16),
            sums[part],
            weighted[part],
        )

    fast = method == "minmax" and whole(kind, cols, group)
    work, most = (nearest, MOST_WEIGHTS) if fast else (searched, BLOCK_WEIGHTS)
    refuse(x, dtype, over_rows(work, rows, cols, threads, most))
    return Encoded(
        codes,
        scales,
        None if symmetric else mins,
        fold_rows(sums, cols),
        None if weights is None else fold_rows(weighted, cols),
    )


def quantize_fixed(
    x: NDArray[np.generic],
    *,
    dtype: Dtype,
    bits: int,
    lo: float,
    hi: float,
    symmetric: bool,
    threads: int = 1,
) -> Encoded:
    """Quantize with one range for the whole tensor, found beforehand over all of its parts.

    lo, hi  smallest and largest weight of the tensor (see value_range), finite
    Result  as quantize, with scales and mins of shape (1, 1); the same for every part of a tensor
    Other arguments and errors as quantize.
    """
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    codes = np.empty((rows, row_bytes(cols, bits)), np.uint8)
    sums = np.empty((rows, COLUMNS), np.float64)
    scales = np.empty((1, 1), np.float16)
    mins = np.empty((1, 0 if symmetric else 1), np.float16)
    scale_bits, min_bits = scales[0].view(np.uint16), mins[0].view(np.uint16)
    lows, highs = np.array([lo], np.float32), np.array([hi], np.float32)
    minmax.params_row(lows, highs, bits, symmetric, scale_bits, min_bits)

    def work(part: slice) -> int:
        return quantize_rows_fixed(
            bit_patterns[part],
            kind,
            bits,
            symmetric,
            scale_bits,
            min_bits,
            codes[part],
            sums[part],
        )

    refuse(x, dtype, over_rows(work, rows, cols, threads))
    return Encoded(codes, scales, None if symmetric else mins, fold_rows(sums, cols))


def value_range(x: NDArray[np.generic], *, dtype: Dtype, threads: int = 1) -> tuple[float, float]:
    """Smallest and largest weight of x, which must not be empty.

    x, dtype, threads and errors as quantize. -0.0 counts as 0.0.
    """
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    rows, cols = x.shape
    found = np.full((rows, 2), np.nan, np.float32)  # filled at the first row of each block

    def work(part: slice) -> int:
        return range_rows(bit_patterns[part], kind, found[part.start])

    refuse(x, dtype, over_rows(work, rows, cols, threads))
    return float(np.nanmin(found)), float(np.nanmax(found))


def dequantize(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16],
    mins: NDArray[np.float16] | None,
    *,
    bits: int,
    cols: int,
    group_size: int,
    threads: int = 1,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Decode what quantize or quantize_fixed returned.

    codes, scales, mins   as in Encoded; mins is None for symmetric codes
    cols, group_size      as given to quantize (0 for quantize_fixed)
    out                   float32 (rows, cols) to write to, C order; a new array if None
    Result                out; the arithmetic is in affine and gives the same bytes everywhere
    """
    rows = codes.shape[0]
    symmetric = mins is None
    scale_bits = scales.view(np.uint16)
    min_bits = np.empty((1, 0), np.uint16) if mins is None else mins.view(np.uint16)
    if scales.shape == (1, 1) and rows != 1:
        scale_bits = np.repeat(scale_bits, rows, axis=0)
    if min_bits.shape[0] != rows:
        min_bits = np.repeat(min_bits, rows, axis=0)
    result = np.empty((rows, cols), np.float32) if out is None else out

    def work(part: slice) -> int:
        affine.dequantize_rows(
            codes[part],
            scale_bits[part],
            min_bits[part],
            bits,
            group_size or cols,
            symmetric,
            result[part],
        )
        return -1

    over_rows(work, rows, cols, threads)
    return result

"""What can be put right after the codes are found, at no cost when the model runs.

Bias. The mean error of an output, (W - V) mu with mu = E[x], is added to the layer's bias:

    b' = b + (W - V) mu

Rows. Scale and minimum of a row are multiplied by a factor, codes stay. With products under the second
moments of the inputs (see output):

    least error     f = <w, v> / <v, v>
    unbiased        f = 1 + strength (<w, w> / <w, v> - 1), the gain of the output as in unbiased

A row keeps its scales when f is not within 1 / 2 .. 2: its codes are then no fit.

Source: Nagel et al., Data-free quantization through weight equalization and bias correction, 2019.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_rows
from kernels.engine import Encoded, dequantize
from kernels.fidelity import ErrorSums
from kernels.measure import measure
from kernels.output import DD, VV, WV, WW, row_products
from kernels.unbiased import LARGEST, stretch_row

MOST = float(np.finfo(np.float32).max)


@kernel
def _bias_rows(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    mean: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    for r in range(w.shape[0]):
        total = 0.0
        for c in range(mean.size):
            total += (np.float64(w[r, c]) - np.float64(v[r, c])) * np.float64(mean[c])
        out[r] = np.float32(min(max(total, -MOST), MOST))


def bias_correction(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    mean: NDArray[np.float32],
    threads: int = 1,
) -> NDArray[np.float32]:
    """What is to be added to the bias, (W - V) mu, float32 (rows,); summed in float64, finite.

    w, v   float32 (rows, cols), C order, finite: the weights and what is stored for them
    mean   mu, float32 (cols,), finite
    """
    out = np.empty(w.shape[0], np.float32)

    def work(part: slice) -> int:
        _bias_rows(w[part], v[part], mean, out[part])
        return -1

    over_rows(work, w.shape[0], w.shape[1], threads)
    return out


@kernel
def _least_error_rows(products: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for r in range(out.size):
        factor = products[r, WV] / products[r, VV]
        out[r] = factor if 1.0 / LARGEST <= factor <= LARGEST else 1.0


@kernel
def _unbiased_rows(
    products: NDArray[np.float64], strength: float, out: NDArray[np.float64]
) -> None:
    for r in range(out.size):
        factor = 1.0 + strength * (products[r, WW] / products[r, WV] - 1.0)
        out[r] = factor if 1.0 / LARGEST <= factor <= LARGEST else 1.0


def least_error_factors(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor of every row that makes the error of its output least, float64 (rows,).

    products   of output.row_products
    """
    out = np.empty(products.shape[0])
    _least_error_rows(products, out)
    return out


def unbiased_factors(products: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """The factor of every row that takes back a share, 0 to 1, of its output's loss of gain."""
    out = np.empty(products.shape[0])
    _unbiased_rows(products, strength, out)
    return out


@kernel
def _stretch_rows(halves: NDArray[np.uint16], factors: NDArray[np.float64]) -> None:
    before = np.empty(halves.shape[1], np.uint16)
    for r in range(halves.shape[0]):
        if factors[r] != 1.0:
            stretch_row(halves[r], factors[r], before)


def stretch(halves: NDArray[np.float16], factors: NDArray[np.float64]) -> NDArray[np.float16]:
    """Rows of scales or minima (rows, n) times factors (rows,), each rounded to the nearest half."""
    out = halves.copy()
    _stretch_rows(out.view(np.uint16), factors)
    return out


def _weighted(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    weights: NDArray[np.float32],
    errors: ErrorSums,
    threads: int,
) -> ErrorSums:
    """Error sums with every product times the importance of its column."""
    products = row_products(w, v, weights, threads)
    ww, dd, wv, vv = (math.fsum(products[:, k]) for k in (WW, DD, WV, VV))
    return ErrorSums(ww, dd, wv, vv, errors.max_abs_error, errors.count)


def rescale(
    encoded: Encoded,
    factors: NDArray[np.float64],
    w: NDArray[np.float32],
    *,
    bits: int,
    group_size: int,
    weights: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> Encoded:
    """The same codes with the scales and minima of every row multiplied, measured again.

    encoded   with a scale and minimum per group, or per row
    factors   float64 (rows,), see least_error_factors and unbiased_factors
    w         float32 (rows, cols), the weights; weights as of engine.quantize, for the sums by importance
    """
    scales = stretch(encoded.scales, factors)
    mins = None if encoded.mins is None else stretch(encoded.mins, factors)
    v = dequantize(
        encoded.codes,
        scales,
        mins,
        bits=bits,
        cols=w.shape[1],
        group_size=group_size,
        threads=threads,
    )
    errors = measure(w, v, dtype="F32", threads=threads)
    weighted = None if weights is None else _weighted(w, v, weights, errors, threads)
    return replace(encoded, scales=scales, mins=mins, errors=errors, weighted=weighted)

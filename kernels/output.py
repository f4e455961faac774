"""The error of a layer's output, from the second moments H = E[x x^T] of its inputs.

With W the weights, V what is stored for them and D = W - V,

    rho = tr(D H D^T) / tr(W H W^T) = E |D x|^2 / E |W x|^2

H is full, (cols, cols); blocks on its diagonal, (ceil(cols / B), B, B), the last one filled up with
zeros; or its diagonal alone, (cols,). Of a symmetric H only the lower triangle is read. Sums are
float64, in a fixed order: the same at any number of threads. Tiles of rows add up.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_tiles
from kernels.factor import block_of, checked
from kernels.tiles import ROWS, WIDTH64, subtract_tile

TALL = 64  # rows of a task: errors and values make twice as many of a product

# Columns of row_products: <w, w>, <w, v>, <v, v> and <d, d> under H.
WW, WV, VV, DD = range(4)
PRODUCTS = 4


@dataclass(frozen=True, slots=True)
class OutputSums:
    """tr(D H D^T) and tr(W H W^T), float64; add two to merge disjoint rows."""

    error: float = 0.0
    energy: float = 0.0

    def __add__(self, other: "OutputSums") -> "OutputSums":
        return OutputSums(self.error + other.error, self.energy + other.energy)

    @property
    def rho(self) -> float:
        """Error relative to energy; 0 when there is no error, inf when there is no energy."""
        if self.error <= 0.0:
            return 0.0
        return self.error / self.energy if self.energy > 0.0 else math.inf


@kernel
def _by_diagonal(
    w: NDArray[np.float32], v: NDArray[np.float32], h: NDArray[np.float32], out: NDArray[np.float64]
) -> None:
    for r in range(w.shape[0]):
        ww, wv, vv, dd = 0.0, 0.0, 0.0, 0.0
        for c in range(h.size):
            a, b, m = np.float64(w[r, c]), np.float64(v[r, c]), np.float64(h[c])
            d = a - b
            ww, wv, vv, dd = ww + m * (a * a), wv + m * (a * b), vv + m * (b * b), dd + m * (d * d)
        out[r, WW], out[r, WV], out[r, VV], out[r, DD] = ww, wv, vv, dd


@kernel
def _doubled(h: NDArray[np.float32], first: int, right: NDArray[np.float64]) -> None:
    """Write columns first .. first + WIDTH64 of H', rows 0 .. first + WIDTH64, to right.

    A few rows at a time, which stay in the cache while they are written lane after lane.
    """
    size = h.shape[0]
    for top in range(0, first + WIDTH64, WIDTH64):
        for lane in range(WIDTH64):
            j = first + lane
            if j < size:
                row = h[j]
                for k in range(top, top + WIDTH64):
                    if k < j:
                        right[k, lane] = 2.0 * np.float64(row[k])
                    else:
                        right[k, lane] = np.float64(row[k]) if k == j else 0.0
            else:
                for k in range(top, top + WIDTH64):
                    right[k, lane] = 0.0


@kernel
def _by_block(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    h: NDArray[np.float32],
    start: int,
    out: NDArray[np.float64],
) -> None:
    """Add the products of at most TALL rows under a block h (n, n) of columns start .. start + n.

    x^T H y is taken as half of x^T H' y + y^T H' x, H' being the upper triangle with all but its
    diagonal doubled; for each WIDTH64 columns of H' one product for all errors and values.
    """
    size, rows = h.shape[0], w.shape[0]
    room = (size + WIDTH64 - 1) // WIDTH64 * WIDTH64
    both, product = np.zeros((2 * TALL, room)), np.empty((2 * TALL, WIDTH64))
    right = np.zeros((room, WIDTH64))
    for r in range(rows):
        for c in range(size):
            value = np.float64(v[r, start + c])
            both[r, c], both[TALL + r, c] = np.float64(w[r, start + c]) - value, value
    for first in range(0, size, WIDTH64):
        _doubled(h, first, right)
        product[:] = 0.0
        for r in range(0, 2 * TALL, ROWS):
            subtract_tile(
                product, both, right, r * WIDTH64, WIDTH64, r * room, room, 0, first + WIDTH64
            )
        for r in range(rows):
            dd, dv, vv = 0.0, 0.0, 0.0
            for lane in range(WIDTH64):
                d, value = both[r, first + lane], both[TALL + r, first + lane]
                dd -= product[r, lane] * d
                dv -= 0.5 * (product[r, lane] * value + product[TALL + r, lane] * d)
                vv -= product[TALL + r, lane] * value
            out[r, WW] += dd + 2.0 * dv + vv
            out[r, WV] += dv + vv
            out[r, VV] += vv
            out[r, DD] += dd


def row_products(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    moments: NDArray[np.float32],
    threads: int = 1,
) -> NDArray[np.float64]:
    """<w, w>, <w, v>, <v, v> and <w - v, w - v> under H of every row, float64 (rows, PRODUCTS).

    w, v       float32 (rows, cols), C order, finite: the weights and what is stored for them
    moments    H, float32, see the module's text
    threads    threads at work, the calling one included
    Errors     ValueError for moments that do not fit
    """
    rows, cols = w.shape
    out = np.zeros((rows, PRODUCTS))
    if moments.ndim == 1:
        if moments.shape != (cols,):
            raise ValueError(f"{moments.size} second moments do not fit {cols} columns")
        parts = []
    else:
        checked(moments, cols)
        size = cols if moments.ndim == 2 else moments.shape[1]
        parts = [
            (b * size, np.ascontiguousarray(block_of(moments, b, cols)))
            for b in range(-(-cols // size))
        ]

    def work(tile: int) -> None:
        part = slice(tile * TALL, min((tile + 1) * TALL, rows))
        if moments.ndim == 1:
            _by_diagonal(w[part], v[part], moments, out[part])
        for start, block in parts:
            _by_block(w[part], v[part], block, start, out[part])

    over_tiles(work, -(-rows // TALL), threads)
    return out


def output_sums(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    moments: NDArray[np.float32],
    threads: int = 1,
) -> OutputSums:
    """Error and energy of the output; arguments and errors as row_products."""
    return summed(row_products(w, v, moments, threads))


def summed(products: NDArray[np.float64]) -> OutputSums:
    """Error and energy from the products of rows, see row_products."""
    return OutputSums(math.fsum(products[:, DD]), math.fsum(products[:, WW]))


@kernel
def _columns(w: NDArray[np.float32], v: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    for r in range(w.shape[0]):
        for c in range(w.shape[1]):
            a = np.float64(w[r, c])
            d = a - np.float64(v[r, c])
            out[0, c] += d * d
            out[1, c] += a * a


@kernel
def _add(parts: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for t in range(parts.shape[0]):
        for k in range(out.shape[0]):
            for c in range(out.shape[1]):
                out[k, c] += parts[t, k, c]


def column_energies(
    w: NDArray[np.float32], v: NDArray[np.float32], threads: int = 1
) -> NDArray[np.float64]:
    """Sums over rows of (w - v)^2 and of w^2, float64 (2, cols); add those of disjoint rows.

    From these the error under any diagonal follows, see group_errors; arguments as row_products.
    """
    rows, cols = w.shape
    tall = max(TALL, -(-rows // 64))
    parts = np.zeros((-(-rows // tall), 2, cols))

    def work(tile: int) -> None:
        part = slice(tile * tall, min((tile + 1) * tall, rows))
        _columns(w[part], v[part], parts[tile])

    over_tiles(work, parts.shape[0], threads)
    out = np.zeros((2, cols))
    _add(parts, out)
    return out


@kernel
def _under(
    energies: NDArray[np.float64], diagonals: NDArray[np.float32], out: NDArray[np.float64]
) -> None:
    for g in range(diagonals.shape[0]):
        error, energy = 0.0, 0.0
        for c in range(diagonals.shape[1]):
            m = np.float64(diagonals[g, c])
            error, energy = error + m * energies[0, c], energy + m * energies[1, c]
        out[g, 0], out[g, 1] = error, energy


def group_sums(
    energies: NDArray[np.float64], diagonals: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Error and energy of the output under each of several diagonals, float64 (groups, 2).

    energies   see column_energies; the sums of disjoint rows add up, as these do
    diagonals  float32 (groups, cols), E[x^2] of every input in each time group
    Errors     ValueError for diagonals that do not fit
    """
    if diagonals.shape[1:] != energies.shape[1:]:
        raise ValueError(f"{diagonals.shape} second moments do not fit {energies.shape[1]} columns")
    out = np.zeros((len(diagonals), 2))
    _under(energies, np.ascontiguousarray(diagonals), out)
    return out


def group_errors(
    energies: NDArray[np.float64], diagonals: NDArray[np.float32]
) -> NDArray[np.float64]:
    """rho under each of several diagonals, float64 (groups,); arguments as group_sums.

    The worst group is where the result is largest.
    """
    return np.array([OutputSums(*sums).rho for sums in group_sums(energies, diagonals).tolist()])

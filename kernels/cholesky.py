"""The inverse of the Cholesky factor of a symmetric positive definite matrix, in place.

    A = L L^T, L lower      A becomes L^-1

in blocks of BLOCK columns: the diagonal block by columns, the rows below it times its inverse, and
what is to the right of them less their product. Then, block row after block row,

    X_b = -L_bb^-1 (L_b X),   X_bb = L_bb^-1

All in float64 and in a fixed order (see tiles): the same bytes at any number of threads. 2 n^3 / 3
operations. LAPACK through NumPy would take a general inverse instead of the triangular one, and its
bytes depend on the threads of its BLAS.

Source: Golub & Van Loan, Matrix computations, 4.2 (block Cholesky) and 3.1 (triangular systems).
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_tiles
from kernels.tiles import ROWS, WIDTH64, subtract_tile

BLOCK = 128
TALL = 64  # rows of a task

Matrix = NDArray[np.float64]


@kernel
def _factor_block(a: Matrix, at: int, inverse: Matrix) -> bool:
    """Factor the diagonal block at (at, at) in place; write its inverse, zeros above the diagonal.

    Result  False when it is not positive definite
    """
    size = inverse.shape[0]
    column = np.empty(size, np.float64)
    block = a[at : at + size, at : at + size]
    for j in range(size):
        pivot = block[j, j]
        if not (pivot > 0.0 and pivot < np.inf):
            return False
        root = np.sqrt(pivot)
        block[j, j] = root
        for i in range(j + 1, size):
            block[i, j] /= root
            column[i] = block[i, j]
        for i in range(j + 1, size):
            row, others, factor = block[i, j + 1 : i + 1], column[j + 1 : i + 1], column[i]
            for k in range(row.size):
                row[k] -= factor * others[k]
    inverse[:] = 0.0
    for i in range(size):
        row = inverse[i]
        row[i] = 1.0
        for k in range(i):
            other, factor = inverse[k], block[i, k]
            for j in range(k + 1):
                row[j] -= factor * other[j]
        for j in range(i + 1):
            row[j] /= block[i, i]
    return True


@kernel
def _solve_rows(a: Matrix, at: int, inverse: Matrix, panels: Matrix, task: int) -> None:
    """TALL rows of the block column at `at`, times L_bb^-T; a packed copy to panels."""
    first = at + BLOCK + task * TALL
    size, step = inverse.shape[0], a.shape[1]
    right, out = np.empty((size // WIDTH64, size, WIDTH64)), np.zeros((TALL, size))
    for p in range(right.shape[0]):
        for k in range(size):
            for lane in range(WIDTH64):
                right[p, k, lane] = inverse[p * WIDTH64 + lane, k]
    for p in range(right.shape[0]):
        for r in range(0, TALL, ROWS):
            subtract_tile(
                out, a, right, r * size + p * WIDTH64, size, (first + r) * step + at, step,
                p * size * WIDTH64, size,
            )  # fmt: skip
    for r in range(TALL):
        i = first + r
        panel = panels[i // WIDTH64]
        for k in range(size):
            a[i, at + k] = -out[r, k]
            panel[k, i % WIDTH64] = -out[r, k]


@kernel
def _update_rows(a: Matrix, at: int, panels: Matrix, task: int) -> None:
    """Subtract the product of the block column at `at` from TALL rows, to the diagonal; long ones first."""
    first = a.shape[0] - (task + 1) * TALL
    step, depth = a.shape[1], panels.shape[1]
    for p in range((at + depth) // WIDTH64, (first + TALL) // WIDTH64):
        for r in range(first, first + TALL, ROWS):
            subtract_tile(
                a, a, panels, r * step + p * WIDTH64, step, r * step + at, step,
                p * depth * WIDTH64, depth,
            )  # fmt: skip


@kernel
def _invert_panel(a: Matrix, at: int, rows: Matrix, inverse: Matrix, panel: int) -> None:
    """One panel of the block row at `at` of the inverse; rows is a copy of that of the factor."""
    size, col = inverse.shape[0], panel * WIDTH64
    first = col // BLOCK * BLOCK
    depth = at - first
    right = np.empty((depth, WIDTH64))
    for k in range(depth):
        for lane in range(WIDTH64):
            right[k, lane] = a[first + k, col + lane]
    product, out = np.zeros((size, WIDTH64)), np.zeros((size, WIDTH64))
    for r in range(0, size, ROWS):
        subtract_tile(
            product, rows, right, r * WIDTH64, WIDTH64, r * rows.shape[1] + first, rows.shape[1],
            0, depth,
        )  # fmt: skip
    for r in range(0, size, ROWS):
        subtract_tile(out, inverse, product, r * WIDTH64, WIDTH64, r * size, size, 0, size)
    for r in range(size):
        for lane in range(WIDTH64):
            a[at + r, col + lane] = -out[r, lane]


def padded_size(n: int) -> int:
    """The next multiple of BLOCK."""
    return -(-n // BLOCK) * BLOCK


def invert_factor(a: Matrix, threads: int = 1) -> bool:
    """Replace the lower triangle of a by that of L^-1, where a = L L^T.

    a       float64 (n, n), C order, n a multiple of BLOCK: fill up with a diagonal of ones; only the
            lower triangle is read, what is above it means nothing afterwards
    Result  False when a is not positive definite; it is then of no use
    """
    size = a.shape[0]
    inverses = np.empty((size // BLOCK, BLOCK, BLOCK))
    panels = np.empty((size // WIDTH64, BLOCK, WIDTH64))
    for b, at in enumerate(range(0, size, BLOCK)):
        if not _factor_block(a, at, inverses[b]):
            return False
        count = (size - at) // TALL - BLOCK // TALL
        over_tiles(partial(_solve_rows, a, at, inverses[b], panels), count, threads)
        over_tiles(partial(_update_rows, a, at, panels), count, threads)
    for b, at in enumerate(range(0, size, BLOCK)):
        rows = a[at : at + BLOCK, :at].copy()
        over_tiles(partial(_invert_panel, a, at, rows, inverses[b]), at // WIDTH64, threads)
        a[at : at + BLOCK, at : at + BLOCK] = inverses[b]
    return True

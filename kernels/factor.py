"""What GPTQ needs of the second moments of a layer's inputs: the factor of their damped inverse.

H = E[x x^T] (cols, cols), or only blocks on its diagonal. Of each block

    G = H / mean(diag H) + damp I,   G^-1 = U^T U,   U upper triangular

by the flip: with J the reversal, J G J = L L^T gives U = J L^-1 J, one factorization and one triangular
inverse (see cholesky). Inputs that never were there (diagonal 0) count as independent of the others.
Where G is not positive definite, damp grows tenfold until it is.

With act_order, columns are taken by falling diagonal inside each block instead of as they come.

U is float32, packed by STRIP rows as the right factor of tiles.subtract_tile, from the diagonal on:
2 n^2 bytes a block of n instead of 4 n^2.

Source: Frantar et al., GPTQ: accurate post-training quantization, 2022.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_tiles
from kernels.cholesky import BLOCK, invert_factor, padded_size
from kernels.tiles import WIDTH32

STRIP = 128  # columns that are quantized before the ones to their right learn of it
MOST_DAMP = 1.0  # what it takes beyond this is no rounding error


@dataclass(frozen=True, slots=True)
class Factor:
    """U of every block, and what goes with it; made by gptq_factor.

    cols        columns of the weights
    block       columns of a block of H; cols for the full one
    order       int32 (cols,): which column is taken at which place; rising without act_order
    act_order   whether order is by falling diagonal
    packed      float32 (blocks, n): U as in the module's text, equal sizes but for the last one's rest
    importance  float32 (cols,): the diagonal of H
    damp        what was added to the diagonal of the worst block, relative to its mean
    """

    cols: int
    block: int
    order: NDArray[np.int32]
    act_order: bool
    packed: NDArray[np.float32]
    importance: NDArray[np.float32]
    damp: float

    @property
    def nbytes(self) -> int:
        """Bytes that stay while rows are quantized."""
        return self.order.nbytes + self.packed.nbytes + self.importance.nbytes


def packed_size(size: int) -> int:
    """Numbers of a packed U (size, size)."""
    strips = padded_size(size) // STRIP
    return STRIP * STRIP * strips * (strips + 1) // 2


def gptq_bytes(cols: int, block: int = 0) -> int:
    """Bytes that gptq_factor takes at its peak: moments (float32), work (float64) and the factor.

    block   columns of a block of H, 0 for the full one: 4096 columns full take 238 MB, 18944 take
            5.0 GB, and 18944 in blocks of 1024 take 132 MB
    """
    size = min(block or cols, cols)
    count = -(-cols // size)
    work = 8 * padded_size(size) * (padded_size(size) + 3 * BLOCK)
    return 4 * count * (size * size + packed_size(size)) + work + 8 * cols


def block_of(moments: NDArray[np.float32], number: int, cols: int) -> NDArray[np.float32]:
    """Block `number` of moments as gptq_factor takes them, without what fills up the last one."""
    if moments.ndim == 2:
        return moments
    size = min(moments.shape[1], cols - number * moments.shape[1])
    return moments[number, :size, :size]


def checked(moments: NDArray[np.float32], cols: int) -> NDArray[np.float32]:
    """The diagonal of moments, float32 (cols,).

    Errors  ValueError unless they are (cols, cols), or (blocks, block, block) that cover cols, with a
            finite diagonal that is not negative
    """
    square = moments.ndim in (2, 3) and moments.shape[-1] == moments.shape[-2] > 0
    covered = square and (
        moments.shape[0] == cols
        if moments.ndim == 2
        else moments.shape[0] == -(-cols // moments.shape[1])
    )
    if not covered:
        raise ValueError(f"second moments of shape {moments.shape} do not fit {cols} columns")
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1).reshape(-1)[:cols].astype(np.float32)
    if not (np.isfinite(diagonal).all() and (diagonal >= 0).all()):
        raise ValueError("the diagonal of second moments must be finite and not negative")
    return diagonal


@kernel
def _fill(
    h: NDArray[np.float32],
    order: NDArray[np.int32],
    scale: float,
    damp: float,
    a: NDArray[np.float64],
    task: int,
) -> None:
    """BLOCK rows of J G J in the given order, lower triangle, filled up with ones."""
    size = order.size
    for i in range(task * BLOCK, (task + 1) * BLOCK):
        for j in range(i + 1):
            a[i, j] = 0.0
        if i >= size:
            a[i, i] = 1.0
            continue
        row = order[size - 1 - i]
        alive = h[row, row] > 0
        for j in range(i):
            col = order[size - 1 - j]
            if alive and h[col, col] > 0:
                a[i, j] = (np.float64(h[row, col]) + np.float64(h[col, row])) * (0.5 * scale)
        a[i, i] = (np.float64(h[row, row]) * scale if alive else 1.0) + damp


@kernel
def strip_start(size: int, strip: int) -> int:
    """Where a strip of a packed U (size, size) starts."""
    strips = (size + STRIP - 1) // STRIP
    return STRIP * STRIP * (strip * strips - strip * (strip - 1) // 2)


@kernel
def _pack(a: NDArray[np.float64], size: int, out: NDArray[np.float32], strip: int) -> None:
    """Rows of one strip of U = J a J; zeros below the diagonal and beyond the size."""
    at = strip_start(size, strip)
    first = strip * STRIP
    for p in range(first // WIDTH32, (size + STRIP - 1) // STRIP * STRIP // WIDTH32):
        for k in range(STRIP):
            i = first + k
            for lane in range(WIDTH32):
                j = p * WIDTH32 + lane
                inside = i < size and i <= j < size
                out[at] = np.float32(a[size - 1 - i, size - 1 - j]) if inside else np.float32(0.0)
                at += 1


def _inverse(
    h: NDArray[np.float32], order: NDArray[np.int32], damp: float, threads: int
) -> tuple[NDArray[np.float64], float]:
    """L^-1 of J G J, and the damp it took."""
    diagonal = np.diagonal(h)
    living = diagonal[diagonal > 0].astype(np.float64)
    scale = 1.0 / float(living.mean()) if living.size else 1.0
    if not np.isfinite(h).all():
        raise ValueError("second moments must be finite")
    padded = padded_size(order.size)
    a = np.empty((padded, padded))
    while True:
        fill = partial(_fill, h, order, scale, damp, a)
        over_tiles(fill, padded // BLOCK, threads)
        if invert_factor(a, threads):
            return a, damp
        damp *= 10.0
        if damp > MOST_DAMP:
            raise ValueError("second moments are not positive semidefinite")


def gptq_factor(
    moments: NDArray[np.float32],
    *,
    cols: int,
    damp: float = 0.01,
    act_order: bool = False,
    threads: int = 1,
) -> Factor:
    """Factor the second moments of a layer's inputs for quantize_gptq.

    moments    float32 (cols, cols), or (ceil(cols / B), B, B): blocks on the diagonal, the last one
               filled up with zeros; symmetric, sums or means (any scale)
    damp       share of the mean diagonal that is added to it, > 0
    act_order  take columns with large moments first; scales are then those of the weights as they are
    threads    threads at work, the calling one included; the bytes do not depend on it
    Errors     ValueError for moments that do not fit, are not finite, or not positive semidefinite
    Memory     gptq_bytes; the result keeps Factor.nbytes
    """
    if not damp > 0:
        raise ValueError("damp must be above 0")
    importance = checked(moments, cols)
    size = cols if moments.ndim == 2 else moments.shape[1]
    count = -(-cols // size)
    packed = np.zeros((count, packed_size(size)), np.float32)
    order, worst = np.arange(cols, dtype=np.int32), damp
    for b in range(count):
        h, start = block_of(moments, b, cols), b * size
        within = np.arange(h.shape[0], dtype=np.int32)
        if act_order:
            diagonal = importance[start : start + within.size]
            within = np.argsort(-diagonal, kind="stable").astype(np.int32)
        order[start : start + within.size] = start + within
        a, used = _inverse(h, within, damp, threads)
        worst = max(worst, used)
        pack = partial(_pack, a, within.size, packed[b])
        over_tiles(pack, padded_size(within.size) // STRIP, threads)
    return Factor(cols, size, order, act_order, packed, importance, worst)

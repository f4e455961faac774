"""A seeded random rotation of rows, which spreads outliers over their neighbours.

Columns are cut into blocks of B, a power of two that divides their number. In each block

    rotate      y = H D x / sqrt(B)
    unrotate    x = D H y / sqrt(B)

with H the Hadamard matrix of Sylvester's construction, H_ij = (-1)^(number of ones in i & j), and D a
diagonal of signs. H is symmetric and H H = B, so one undoes the other up to float32 rounding: log2 B
sums of two and one product for each number, about 1e-7 of the row's length. If inputs of a layer are
rotated alike, its outputs stay the same.

The sign of column c is the highest bit (1: minus) of a 64-bit hash, all modulo 2^64:

    z = seed + (c + 1) 0x9E3779B97F4A7C15
    z = (z xor z >> 30) 0xBF58476D1CE4E5B9
    z = (z xor z >> 27) 0x94D049BB133111EB
    hash = z xor z >> 31

Sums are taken in the order of the butterflies below, by every processor: the bytes are the same
everywhere. Numbers must stay below 3e38 / sqrt(B), or sums overflow to Inf.

Source: Sylvester, 1867; fast transform as in Fino & Algazi, 1976; random signs: Ailon & Chazelle, The
fast Johnson-Lindenstrauss transform, 2006; for weights: Chee et al., QuIP, 2023. Hash: Steele, Lea &
Flood, Fast splittable pseudorandom number generators, 2014.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_rows

LARGEST_BLOCK = 4096  # 16 KiB of a row: fits the first cache
_MASK = 0xFFFFFFFFFFFFFFFF


def rotation_block(cols: int) -> int:
    """The largest power of two that divides cols, at most LARGEST_BLOCK; cols >= 1."""
    return min(cols & -cols, LARGEST_BLOCK)


def signs_for(seed: int, cols: int) -> NDArray[np.float32]:
    """The diagonal of D, float32 (cols,), 1 or -1; seed is taken modulo 2^64."""
    signs = np.empty(cols, np.float32)
    _signs(np.uint64(seed & _MASK), signs)
    return signs


@kernel
def _signs(seed: np.uint64, out: NDArray[np.float32]) -> None:
    z = seed
    for c in range(out.size):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        mixed = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        out[c] = np.float32(-1.0) if mixed >> np.uint64(63) else np.float32(1.0)


@kernel
def _eights(x: NDArray[np.float32]) -> None:
    """The butterflies of distance 1, 2 and 4."""
    for k in range(x.size // 8):
        e = x[8 * k : 8 * k + 8]
        a0, a1, a2, a3 = e[0] + e[1], e[0] - e[1], e[2] + e[3], e[2] - e[3]
        a4, a5, a6, a7 = e[4] + e[5], e[4] - e[5], e[6] + e[7], e[6] - e[7]
        b0, b1, b2, b3 = a0 + a2, a1 + a3, a0 - a2, a1 - a3
        b4, b5, b6, b7 = a4 + a6, a5 + a7, a4 - a6, a5 - a7
        e[0], e[1], e[2], e[3] = b0 + b4, b1 + b5, b2 + b6, b3 + b7
        e[4], e[5], e[6], e[7] = b0 - b4, b1 - b5, b2 - b6, b3 - b7


@kernel
def _twos(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    """The butterflies between two runs of the same length."""
    for i in range(a.size):
        x, y = a[i], b[i]
        a[i] = x + y
        b[i] = x - y


@kernel
def _transform(x: NDArray[np.float32]) -> None:
    """Multiply x (B,), B a power of two, by H, in place."""
    distance = 1
    if x.size >= 8:
        _eights(x)
        distance = 8
    while distance < x.size:
        for start in range(0, x.size, 2 * distance):
            middle, stop = start + distance, start + 2 * distance
            _twos(x[start:middle], x[middle:stop])
        distance *= 2


@kernel
def _multiply(x: NDArray[np.float32], factors: NDArray[np.float32]) -> None:
    for i in range(x.size):
        x[i] *= factors[i]


@kernel
def rotate_rows(
    x: NDArray[np.float32], factors: NDArray[np.float32], block: int, back: bool
) -> None:
    """Rotate rows of x (rows, cols) in place, or back; factors (cols,) are D / sqrt(B)."""
    for r in range(x.shape[0]):
        row = x[r]
        if not back:
            _multiply(row, factors)
        for start in range(0, row.size, block):
            _transform(row[start : start + block])
        if back:
            _multiply(row, factors)


def _turn(x: NDArray[np.float32], seed: int, block: int, back: bool, threads: int) -> None:
    rows, cols = x.shape
    if block < 1 or block & (block - 1) or cols % block:
        raise ValueError(f"blocks of {block} do not divide {cols} columns into powers of two")
    factors = signs_for(seed, cols) * np.float32(block**-0.5)

    def work(part: slice) -> int:
        rotate_rows(x[part], factors, block, back)
        return -1

    over_rows(work, rows, cols, threads)


def rotate(x: NDArray[np.float32], seed: int, block: int, threads: int = 1) -> None:
    """Rotate the rows of x in place.

    x        float32 (rows, cols), C order, writable; NaN and Inf spread over their blocks
    seed     any integer, modulo 2^64
    block    B, see rotation_block; 1 changes signs only
    threads  threads at work, the calling one included; the bytes do not depend on it
    Errors   ValueError when block is not a power of two that divides cols
    """
    _turn(x, seed, block, False, threads)


def unrotate(x: NDArray[np.float32], seed: int, block: int, threads: int = 1) -> None:
    """Undo rotate, up to rounding; arguments and errors the same."""
    _turn(x, seed, block, True, threads)

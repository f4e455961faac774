"""Turning rows back that were rotated before they were quantized.

In each block of B columns, a power of two,

    x = D H y / sqrt(B)

with H the Hadamard matrix of Sylvester's construction and D a diagonal of signs, the highest bit of a
hash of seed and column (Steele, Lea & Flood, Fast splittable pseudorandom number generators, 2014).
Butterflies go from distance 1 upwards and every sum is rounded to float32, so that every correct
reader gives the same bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

HADAMARD: Final = "hadamard"
LARGEST_BLOCK: Final = 4096
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))


class Rotation(NamedTuple):
    """What rows were turned by."""

    kind: str
    block: int
    seed: int


def problem(rotation: Rotation, cols: int) -> str:
    """What is wrong with a rotation of rows of this length, or nothing."""
    kind, block, seed = rotation
    if kind != HADAMARD:
        return f"rotation {kind!r:.40} is not known"
    if not 2 <= block <= LARGEST_BLOCK or block & (block - 1) or cols % block:
        return f"blocks of {block} do not divide {cols} columns into powers of two"
    return f"seed {seed} is negative" if seed < 0 else ""


def unrotate(values: NDArray[np.float32], rotation: Rotation) -> None:
    """Turn the rows of a C-contiguous (rows, cols) array back, in place."""
    distance = 1
    while distance < rotation.block:
        pairs = values.reshape(-1, 2, distance)
        first, second = pairs[:, 0], pairs[:, 1]
        difference = first - second
        first += second
        second[...] = difference
        distance *= 2
    values *= _factors(rotation.seed, values.shape[1], rotation.block)


@lru_cache(maxsize=64)
def _factors(seed: int, cols: int, block: int) -> NDArray[np.float32]:
    """D / sqrt(B), float32 (cols,)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, cols + 1, dtype=np.uint64) * _STEP
        for shift, factor in _MIX:
            z = (z ^ (z >> np.uint64(shift))) * factor
        z ^= z >> np.uint64(31)
    signs = np.where(z >> np.uint64(63), np.float32(-1), np.float32(1))
    return (signs * np.float32(block**-0.5)).astype(np.float32)

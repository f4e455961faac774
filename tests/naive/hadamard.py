"""The rotation as a product with matrices, in float64."""

import numpy as np

MASK = 2**64 - 1


def sign(seed, column):
    z = (seed + (column + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return -1.0 if (z ^ (z >> 31)) >> 63 else 1.0


def matrix(cols, seed, block):
    """(cols, cols), by which rows are multiplied from the right."""
    index = np.arange(block)
    ones = np.vectorize(lambda n: n.bit_count() & 1)(index[:, None] & index)
    small = (1.0 - 2.0 * ones) / np.sqrt(block)
    whole = np.kron(np.eye(cols // block), small)
    return np.array([sign(seed, c) for c in range(cols)])[:, None] * whole

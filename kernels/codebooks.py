"""Tables of levels for codebook codes: rising, float32, the largest of size 1.

nf4         16 quantiles of the standard normal: 8 of its upper half, from 1 - 1/2 (1/32 + 1/30) down
            to 1/2, 7 of its lower half by mirror, and 0. Source: Dettmers et al., QLoRA, 2023. The
            probabilities are float32, counted from both ends, which gives the bits of bitsandbytes.
lloyd_max   the levels of least squared error for the standard normal: each is the mean of what is
            nearer to it than to the others. Source: Max, 1960; Lloyd, 1982.
"""

import math
from functools import cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

NORMAL = NormalDist()
MOST_LEVELS = 256


@cache
def nf4_levels() -> NDArray[np.float32]:
    """The 16 levels of NF4, float32, read-only."""
    upper = [NORMAL.inv_cdf(p) for p in _probabilities(8)]
    lower = [-NORMAL.inv_cdf(p) for p in _probabilities(7)]
    return _table([*lower, 0.0, *upper])


def _probabilities(count: int) -> list[float]:
    """From 0.9677083 down towards 1/2, which is left out."""
    first, last = np.float32(0.9677083), np.float32(0.5)
    step = (last - first) / np.float32(count)
    upper = (count + 1) // 2
    ahead = [float(first + step * np.float32(i)) for i in range(upper)]
    return ahead + [float(last - step * np.float32(count - i)) for i in range(upper, count)]


@cache
def lloyd_max_levels(bits: int) -> NDArray[np.float32]:
    """The 2^bits levels for the standard normal, float32, read-only; bits 2, 3 or 4.

    From quantiles, moved to the means of their cells until none moves by 1e-12.
    """
    count = 1 << bits
    levels = [NORMAL.inv_cdf((k + 0.5) / count) for k in range(count)]
    moved = math.inf
    while moved > 1e-12:
        edges = [
            -math.inf,
            *((a + b) / 2 for a, b in pairwise(levels)),
            math.inf,
        ]
        means = [_mean(a, b) for a, b in pairwise(edges)]
        moved = max(abs(a - b) for a, b in zip(levels, means, strict=True))
        levels = means
    return _table(levels)


def _mean(a: float, b: float) -> float:
    """The mean of a standard normal between a and b."""
    density = [0.0 if math.isinf(x) else NORMAL.pdf(x) for x in (a, b)]
    return (density[0] - density[1]) / (NORMAL.cdf(b) - NORMAL.cdf(a))


def _table(levels: list[float]) -> NDArray[np.float32]:
    largest = max(abs(level) for level in levels)
    table = np.array(sorted(levels), np.float32) / np.float32(largest)
    table.flags.writeable = False
    return table


def code_bits(levels: int) -> int:
    """Bits of a code for so many levels, at least 2 and at most 256: 2, 3, 4, 6 or 8."""
    return next(bits for bits in (2, 3, 4, 6, 8) if levels <= 1 << bits)


def edges_for(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where the nearest level changes, float32 (levels - 1,): the means of neighbours, rounded.

    Errors  ValueError unless levels are 2 to 256 rising finite numbers, not all zero
    """
    wide = levels.astype(np.float64)
    if not 2 <= levels.size <= MOST_LEVELS:
        raise ValueError(f"a codebook has 2 to {MOST_LEVELS} levels, not {levels.size}")
    if not (np.isfinite(wide).all() and (np.diff(wide) > 0).all()):
        raise ValueError("the levels of a codebook are finite and rise")
    return ((wide[:-1] + wide[1:]) / 2).astype(np.float32)

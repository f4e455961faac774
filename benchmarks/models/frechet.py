"""The Fréchet distance between two clouds of features, as Gaussians (Heusel et al. 2017), in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
RESAMPLES = 40


def distance(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) over the rows of (n, d) and (m, d)."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(0) - y.mean(0)
    root = _root(first)
    # The eigenvalues of A B are those of A^(1/2) B A^(1/2), which is symmetric.
    shared = np.linalg.eigvalsh(root @ second @ root)
    cross = np.sqrt(np.clip(shared, 0, None)).sum()
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * cross)


def standard_error(
    a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], twin: npt.NDArray[np.generic] | None
) -> float:
    """Of the distance, from bootstrap resamples of the samples `a`; `b`, the real data, stays.

    With the samples of a twin from the same noise: of the difference of the two distances, both
    resampled alike, which is known far better than either.
    """
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = random.integers(len(a), size=len(a))
        less = 0.0 if twin is None else distance(twin[chosen], b)
        drawn.append(distance(a[chosen], b) - less)
    return float(np.std(drawn, ddof=1))


def _root(matrix: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

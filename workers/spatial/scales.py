"""How large the scales of a group are: SmoothQuant's form, aggregated over time, its strength chosen by error.

    s_j = a_j^alpha / w_j^(1 - alpha)

with a_j the largest |x_j| and w_j the largest |W_ij| of all layers that read channel j (Xiao et al. 2023,
SmoothQuant, equation 4): x_j / s_j and W_:j s_j then share the range between them, all of it at alpha 1 in the
weights. One s holds at all times, so a_j is an aggregate over time bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration.statistics import Stats
from service.domain.smoothing import Aggregate

Vector = NDArray[np.float64]

ALPHAS: Final = (0.0, 0.25, 0.35, 0.5, 0.65, 0.75)
WIDEST: Final = 2.0**8  #: a channel's factor beside the mean of all


def largest(stats: Stats, how: Aggregate, omega: Sequence[float], weight_max: Vector) -> Vector:
    """One largest |x| for each channel, float64 (n,).

    stats     with largest magnitudes
    max       over all time bins
    mean      of the bins' largest, by the share of vectors captured in a bin times its omega
    salience  mean of the bins' largest by softmax(-rho), rho Spearman's correlation of the bin's largest with the
              weight's (PTQ4DiT, Wu et al. 2024, equations 6 to 9): bins count whose large channels are not
              those of the weight
    weight_max  float64 (n,), of the weights that read it
    """
    assert stats.abs_max is not None
    seen = stats.count > 0
    bins = np.unique(stats.bins[seen])
    if not bins.size:
        return np.zeros(stats.n)
    each = np.stack([stats.abs_max[seen & (stats.bins == b)].max(axis=0) for b in bins])
    each = each.astype(np.float64)
    if how is Aggregate.MAX or len(each) == 1:
        return np.asarray(each.max(axis=0))
    if how is Aggregate.MEAN:
        counts = stats.shares(omega=omega) * stats.count
        shares = np.array([counts[stats.bins == b].sum() for b in bins])
    else:
        shares = np.exp([-spearman(row, weight_max) for row in each])
    return np.asarray(shares / shares.sum() @ each)


def spearman(a: Vector, b: Vector) -> float:
    """Correlation of ranks, ties by the mean of theirs; 0 where one of the two is constant."""
    left, right = (_ranks(values) - (len(values) - 1) / 2 for values in (a, b))
    norm = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / norm if norm > 0 else 0.0


def _ranks(values: Vector) -> Vector:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse])


def smooth(inputs: Vector, weight_max: Vector, alpha: float, *, exact: bool) -> Vector:
    """The scales, float64 (n,), positive; their geometric mean is 1 over channels that are alive.

    inputs, weight_max  largest |x| and |W| of each channel; where one is 0, or not finite, s is 1
    exact               rounded to powers of two, by which weights can be multiplied without rounding
    """
    alive = (inputs > 0) & (weight_max > 0) & np.isfinite(inputs) & np.isfinite(weight_max)
    logs = np.zeros(len(inputs))
    logs[alive] = alpha * np.log2(inputs[alive]) - (1 - alpha) * np.log2(weight_max[alive])
    if alive.any():
        logs[alive] -= logs[alive].mean()
    logs = np.clip(logs, -np.log2(WIDEST), np.log2(WIDEST))
    return np.asarray(np.exp2(np.rint(logs) if exact else logs))


def representable(s: Vector, read: Vector, made: Vector, most: float) -> Vector:
    """The scales, 1 where something would leave its dtype.

    read, made  largest magnitudes of each channel's columns, and of its rows
    most        the largest number of the dtype
    """
    fits = (read * s <= most) & (made / s <= most)
    return np.where(fits, s, 1.0)


def choose(
    candidates: Iterable[tuple[float | None, Vector]], error: Callable[[Vector], float]
) -> tuple[float | None, Vector, float]:
    """The strength, its scales and its error: those of the first candidate of least error."""
    measured = [(error(s), alpha, s) for alpha, s in candidates]
    least, alpha, s = min(measured, key=lambda each: each[0])
    return alpha, s, least

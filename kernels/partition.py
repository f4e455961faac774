"""Cutting a sequence of times into runs.

The best cut into k runs, for a cost of every run, follows from the best ones into k - 1 (Bellman 1961; for
one-dimensional clustering Fisher 1958):

    D[k, j] = min over i < j of D[k - 1, i] + C[i, j]

which is exact, unlike greedy splitting, and takes k T^2 steps for T times.
"""

import numpy as np
from numpy.typing import NDArray


def best_cuts(costs: NDArray[np.float64], most: int) -> list[tuple[float, tuple[int, ...]]]:
    """The cheapest cut into 1, 2, ... min(most, times) runs: (cost, boundaries).

    costs       float64 (times, times + 1), finite and not negative: [i, j] of the run i <= t < j
    boundaries  0 = b[0] < ... < b[k] = times; among equals, the earliest
    """
    times = costs.shape[0]
    held = costs[0].copy()  # D[k, j] for j = 0 .. times
    held[0] = np.inf
    found: list[tuple[float, tuple[int, ...]]] = [(float(held[times]), (0, times))]
    came: list[NDArray[np.intp]] = []
    for _ in range(2, min(most, times) + 1):
        totals = held[:times, None] + costs
        totals[np.tril_indices(times, 0, times + 1)] = np.inf  # an empty run is no run
        came.append(np.argmin(totals, axis=0))
        held = np.min(totals, axis=0)
        cuts = [times]
        for step in reversed(came):
            cuts.append(int(step[cuts[-1]]))
        found.append((float(held[times]), (0, *reversed(cuts))))
    return found


def enough(costs: list[float], gain: float) -> int:
    """How many runs to take: the fewest from which no number of further ones saves the share `gain`.

    costs  of the best cut into 1, 2, ... runs
    Result 1 .. len(costs)
    """
    least = min(costs)
    return next(n for n, cost in enumerate(costs, start=1) if cost - least <= gain * cost)


def even_cuts(times: int, runs: int) -> tuple[int, ...]:
    """Runs of equal length, as far as that goes, for comparison."""
    runs = min(runs, times)
    return tuple(round(k * times / runs) for k in range(runs + 1))


def quantile_cuts(counts: NDArray[np.int64], runs: int) -> tuple[int, ...]:
    """Runs of about equally many observations, none empty, for comparison.

    counts  int64 (times,)
    """
    times = counts.size
    runs = min(runs, times)
    mass = np.concatenate([[0], np.cumsum(counts)])
    cuts = [0]
    for k in range(1, runs):
        wanted = mass[-1] * k / runs
        nearest = int(np.argmin(np.abs(mass - wanted)))
        cuts.append(min(max(nearest, cuts[-1] + 1), times - (runs - k)))
    return (*cuts, times)

"""Which times go together, for all layers at once.

The cost of a run of times is the sum over layers of the squared error of one quantizer for it, relative to the
layer's signal: layers count the same whatever their size. The best cut is found exactly (kernels.partition).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels import histograms, partition
from service.domain.activations import Activations
from workers.activations.timed import Timed, runs

WORTH_OWN = 0.1  # of a layer's error, to have boundaries of its own


@dataclass(frozen=True, slots=True)
class Choice:
    """Boundaries as numbers of time bins, and the mean relative error of a layer with 1, 2, ... groups: cut in
    the best way, evenly, and by quantiles of what was seen."""

    cuts: tuple[int, ...]
    optimal: tuple[float, ...]
    uniform: tuple[float, ...]
    quantile: tuple[float, ...]


def costs(seen: Timed, how: Activations) -> NDArray[np.float64]:
    """Relative squared error of every run of times, float64 (times, times + 1)."""
    errors = histograms.run_errors(
        seen.edges,
        seen.counts,
        seen.lows,
        seen.highs,
        bits=how.bits,
        symmetric=how.symmetric,
        clip=how.clip == "mse",
    )
    return errors / seen.energy if seen.energy > 0 else errors


def choose(layers: Iterable[Timed], times: int, how: Activations, most: int) -> Choice:
    """The groups of times for these layers, at most `most` unless the recipe says how many."""
    total, number = np.zeros((times, times + 1)), 0
    vectors = np.zeros(times, np.int64)
    for seen in layers:
        total += costs(seen, how)
        vectors += seen.vectors
        number += 1
    total /= max(1, number)
    most = min(times, how.groups or most)
    best = partition.best_cuts(total, most)
    every = range(1, most + 1)
    even = [partition.even_cuts(times, k) for k in every]
    equal = [partition.quantile_cuts(vectors, k) for k in every]
    found = [cost for cost, _ in best]
    groups = most if how.groups else partition.enough(found, how.gain)
    named = {"optimal": [cut for _, cut in best], "uniform": even, "quantile": equal}
    return Choice(
        named[how.boundaries][groups - 1],
        tuple(found),
        tuple(_cost(total, cut) for cut in even),
        tuple(_cost(total, cut) for cut in equal),
    )


def own_cuts(seen: Timed, shared: tuple[int, ...], how: Activations) -> tuple[int, ...]:
    """A layer's own best boundaries, as many as the shared ones, if they save a tenth of its error."""
    cost = costs(seen, how)
    own, cut = partition.best_cuts(cost, len(shared) - 1)[-1]
    return cut if own < (1 - WORTH_OWN) * _cost(cost, shared) else shared


def _cost(total: NDArray[np.float64], cuts: tuple[int, ...]) -> float:
    return float(sum(total[start, stop] for start, stop in runs(cuts)))

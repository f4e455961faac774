"""Histograms of an input by time, as the kernels take them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration.histogram import BINS, edges
from arrowquant.calibration.statistics import Stats, Weighting

EDGES = edges()


@dataclass(frozen=True, slots=True)
class Timed:
    """What was seen of an input in each bin of time; only the bins of the histogram that count.

    edges      float64 (used + 1,)
    counts     float64 (times, used), by what a value weighs
    lows       float64 (times,), smallest value; +inf where nothing was seen; highs likewise
    vectors    int64 (times,), activation vectors that were seen
    energy     weighted sum of squares
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    vectors: NDArray[np.int64]
    energy: float

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes

    def run(self, start: int, stop: int) -> tuple[NDArray[np.float64], float, float, int]:
        """Of times start .. stop - 1 together: counts, smallest, largest, vectors."""
        part = slice(start, stop)
        return (
            self.counts[part].sum(axis=0),
            float(self.lows[part].min()),
            float(self.highs[part].max()),
            int(self.vectors[part].sum()),
        )


def timed(
    stats: Stats, times: int, weighting: Weighting, omega: tuple[float, ...], branch: str | None
) -> Timed | None:
    """Statistics by time, branches together or one of them; None where histograms or ranges were not kept,
    or nothing was seen."""
    if stats.hist is None or stats.low is None or stats.high is None:
        return None
    chosen = [
        row
        for row, name in enumerate(stats.branches)
        if branch in (None, name) and stats.count[row] > 0
    ]
    if not chosen:
        return None
    shares = stats.shares(weighting, omega)
    counts = np.zeros((times, BINS))
    lows, highs = np.full(times, np.inf), np.full(times, -np.inf)
    vectors = np.zeros(times, np.int64)
    energy = 0.0
    for row in chosen:
        time = int(stats.bins[row])
        counts[time] += shares[row] * stats.hist[row]
        lows[time] = min(lows[time], float(stats.low[row]))
        highs[time] = max(highs[time], float(stats.high[row]))
        vectors[time] += stats.count[row]
        energy += float(shares[row] * stats.sum_sq[row].sum())
    used = np.flatnonzero(counts.any(axis=0))
    if not used.size:
        return None
    first, last = int(used[0]), int(used[-1]) + 1
    kept = np.ascontiguousarray(counts[:, first:last])
    return Timed(EDGES[first : last + 1], kept, lows, highs, vectors, energy)


def runs(cuts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The runs between boundaries."""
    yield from itertools.pairwise(cuts)

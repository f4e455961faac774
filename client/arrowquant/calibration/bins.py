"""Time bins: stretches of timesteps, noise levels or mask ratios that are summed apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bin_of(times: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int32]:
    """The bin of every time, int32: bin g holds edges[g] <= t < edges[g + 1].

    What lies outside belongs to the first or the last bin; without edges there is bin 0 alone.
    """
    if len(edges) < 2:
        return np.zeros(len(times), np.int32)
    inner = np.asarray(edges[1:-1], np.float64)
    return np.searchsorted(inner, times, side="right").astype(np.int32)


def edges_between(times: Sequence[float]) -> tuple[float, ...]:
    """Edges that give each of some times a bin of its own: halfway between neighbours."""
    ordered = np.unique(np.asarray(times, np.float64))
    if len(ordered) < 2:
        return ()
    middle = (ordered[1:] + ordered[:-1]) / 2
    first = ordered[0] - (middle[0] - ordered[0])
    last = ordered[-1] + (ordered[-1] - middle[-1])
    return tuple(float(edge) for edge in (first, *middle, last))
